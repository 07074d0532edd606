"""`busfast.dataloaders` finds classes, split and duplicates of images as they lie; `busfast.learner` trains on them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ARCH
from fastai.callback import schedule as _schedule  # noqa: F401  (fine_tune)
from fastai.callback.mixup import MixUp
from fastai.losses import CrossEntropyLossFlat, LabelSmoothingCrossEntropyFlat
from fastai.metrics import accuracy
from fastai.optimizer import ranger
from fastai.vision.augment import Resize, aug_transforms
from fastai.vision.data import ImageDataLoaders
from PIL import Image
from torchvision.models import resnet18

import busfast
from busfast.errors import UserError
from busfast.models.fast_step import FastLearner
from busfast.models.optimizers import FusedAdam
from busfast.pipelines import ImagePipeline


@pytest.fixture
def pets(tmp_path, monkeypatch):
    """A folder of 20 images of each of two classes; two of them are the same."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for number in range(40):
        path = Path("pets") / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 255, (15, 12, 3), dtype=np.uint8))
        coarse.resize((50, 60), Image.Resampling.BICUBIC).save(path)
    Path("pets/cat/2.png").write_bytes(Path("pets/cat/0.png").read_bytes())
    return Path("pets")


def test_a_folder_is_split_with_its_duplicates_together_and_trains(pets, capsys):
    dls = busfast.dataloaders("pets", size=32, batch_tfms=aug_transforms(), bs=8, device="cpu")
    out = capsys.readouterr().out
    assert "classes: cat, dog" in out and "1 identical pair" in out and "split: stratified" in out
    assert list(dls.vocab) == ["cat", "dog"] and dls.train.one_batch()[0].shape == (8, 3, 32, 32)
    parts = dls.split.rows.set_index("image")["part"]
    assert parts["cat/0.png"] == parts["cat/2.png"]
    learn = busfast.learner(dls, ARCH, weights="none", metrics=[accuracy], loss_func=LabelSmoothingCrossEntropyFlat(),
                            opt_func=ranger, cbs=MixUp(0.2), path="here")
    with learn.no_bar(), learn.no_logging():
        learn.fine_tune(1)
        test = dls.test_dl(dls.split.only("test"), with_labels=True)
        probabilities, targets = learn.get_preds(dl=test)
    assert learn.recorder.metric_names[-2:] == ["accuracy", "time"] and len(targets) == len(dls.split.only("test"))
    assert torch.allclose(probabilities.sum(1), torch.ones(len(targets)))


def test_what_is_not_given_is_the_recipes(pets):
    learn = busfast.learner(busfast.dataloaders("pets", size=32, bs=8, device="cpu"), ARCH, weights="none")
    assert isinstance(learn, FastLearner) and learn.opt_func is FusedAdam and learn.dls.train.image.rotate == 15
    assert [getattr(metric, "name", "") for metric in learn.metrics] == [
        "val_loss", "val_acc", "macro_auc", "recall_cat", "recall_dog"]


@pytest.mark.parametrize("parts", [False, True])
def test_a_dataframe_with_the_usual_column_names(pets, parts):
    Path("pets/cat/2.png").unlink()  # the duplicate
    files = sorted(map(str, pets.rglob("*.png")))
    frame = pd.DataFrame({"path": files, "target": [Path(file).parent.name for file in files], "pid": range(39)})
    if parts:
        frame["part"] = (["train", "train", "val", "test"] * 10)[:39]
    dls = busfast.dataloaders(frame, image=ImagePipeline(32, hflip=0, rotate=0), bs=8, device="cpu", cache="off")
    assert list(dls.vocab) == ["cat", "dog"] and dls.valid.one_batch()[0].shape[1:] == (3, 32, 32)
    assert dls.split.name == ("given" if parts else "stratified") and (not parts or len(dls.train_ds) == 20)
    if parts:
        again = busfast.dataloaders(frame, split="stratified", size=32, bs=8, device="cpu", cache="off")
        assert again.split.name == "stratified" and len(again.train_ds) > 20
        leaky = frame.assign(pid=[number // 4 for number in range(39)])
        with pytest.raises(UserError, match="leak"):
            busfast.dataloaders(leaky, cache="off")
        leaky = busfast.dataloaders(leaky, allow_leaks=True, size=32, bs=8, device="cpu", cache="off")
        assert len(leaky.train_ds) == 20 and leaky.split.leaks
    assert list(frame.columns)[:3] == ["path", "target", "pid"]  # it is not changed


def test_folders_of_parts_are_the_split_and_folds_are_refused(pets):
    for part, numbers in (("train", range(24)), ("valid", range(24, 40))):
        for number in numbers:
            label = ("cat", "dog")[number % 2]
            target = Path("parts") / part / label / f"{number}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((pets / label / f"{number}.png").read_bytes())
    dls = busfast.dataloaders("parts", size=32, bs=8, device="cpu", cache="off")
    assert dls.split.name == "given" and len(dls.valid_ds) == 16
    with pytest.raises(UserError, match="has 5 folds"):
        busfast.dataloaders("pets", split="kfold", cache="off")


@pytest.mark.parametrize(("frame", "message"), [
    (pd.DataFrame({"where": ["a"], "label": ["b"]}), "No column of the DataFrame looks like 'image' \\(found: where"),
    (pd.DataFrame({"image": ["a", "b"], "label": ["x", "y"], "part": ["train", "later"]}), "holds later"),
    (pd.DataFrame({"image": ["a"], "label": ["x"]}), "of the class 'x'"),
    (pd.DataFrame({"fn": ["a", "b"], "dx": ["x", None]}), "Row 1 of the DataFrame has no label \\(column dx\\)"),
])
def test_a_wrong_dataframe_is_refused(frame, message):
    with pytest.raises(UserError, match=message):
        busfast.dataloaders(frame)


def test_what_fastais_users_try_is_refused_with_the_way_out(pets):
    with pytest.raises(UserError, match="dataloaders calls valid_pct valid_share"):
        busfast.dataloaders("pets", valid_pct=0.2)
    with pytest.raises(UserError, match="Unknown argument of dataloaders 'batchtfms'. Did you mean 'batch_tfms'"):
        busfast.dataloaders("pets", batchtfms=())
    dls = busfast.dataloaders("pets", size=32, bs=8, device="cpu", cache="off")
    with pytest.raises(UserError, match="such as 'resnet18', not a function"):
        busfast.learner(dls, resnet18)
    with pytest.raises(UserError, match="both name a loss"):
        busfast.learner(dls, ARCH, loss="focal", loss_func=CrossEntropyLossFlat())
    files = sorted(pets.rglob("*.png"))
    plain = ImageDataLoaders.from_path_func(pets, files, lambda path: path.parent.name, item_tfms=Resize(32))
    with pytest.raises(UserError, match="For fastai's own: busfast.accelerate"):
        busfast.learner(plain, ARCH)
