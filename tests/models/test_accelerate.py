"""`busfast.accelerate` returns the same object, whose training and export are fastai's."""

import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import timm
import torch
from conftest import ARCH
from fastai.callback import schedule as _schedule  # noqa: F401  (fine_tune, lr_find)
from fastai.data.transforms import get_image_files
from fastai.learner import Learner, load_learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy, accuracy_multi
from fastai.optimizer import SGD, Adam
from fastai.torch_core import set_seed
from fastai.vision.augment import Resize, aug_transforms
from fastai.vision.data import ImageDataLoaders
from fastai.vision.learner import vision_learner
from PIL import Image
from torch import nn
from torchvision.models import resnet18

import busfast
from busfast.errors import UserError
from busfast.models.accelerate import fused
from busfast.models.optimizers import FusedAdam
from busfast.pipelines.accelerate import AcceleratedDL


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """Cats are bright, dogs are dark: NAME_NUMBER.png."""
    folder, rng = tmp_path_factory.mktemp("pets"), np.random.default_rng(0)
    for number in range(48):
        pixels = rng.integers(0, 120, (50, 60, 3)) + (120 if number % 2 else 0)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{('dog', 'cat')[number % 2]}_{number}.png")
    return folder


def name_of(path):
    return path.split("_")[0]


def dls_of(pets, **kwargs):
    kwargs = {"item_tfms": Resize(40), "batch_tfms": aug_transforms(size=32)} | kwargs
    return ImageDataLoaders.from_name_func(pets, get_image_files(pets), name_of, seed=1, bs=8, num_workers=0, **kwargs)


def quiet(learn, how, *args, **kwargs):
    with learn.no_bar(), learn.no_logging():
        return getattr(learn, how)(*args, **kwargs)


def test_dataloaders_stay_the_same_object_and_train(pets, tmp_path):
    set_seed(1)
    dls = dls_of(pets)
    assert busfast.accelerate(dls) is dls and isinstance(dls.train, AcceleratedDL)
    learn = Learner(dls, timm.create_model(ARCH, num_classes=2), metrics=accuracy, path=tmp_path)
    quiet(learn, "fit_one_cycle", 8, 1e-2)
    assert learn.recorder.values[-1][-1] > 0.8
    dls.show_batch(), learn.show_results()


def test_the_pets_tutorial_of_fastai_runs_with_one_line_more(pets, tmp_path):
    learn = vision_learner(dls_of(pets), resnet18, pretrained=False, metrics=accuracy, path=tmp_path)
    assert busfast.accelerate(learn) is learn
    assert isinstance(learn.dls.train, AcceleratedDL) and isinstance(learn.opt_func, partial)
    quiet(learn, "fine_tune", 1)
    quiet(learn, "lr_find", num_it=6, show_plot=False)
    files = get_image_files(pets)
    name, index, probabilities = quiet(learn, "predict", files[0])
    assert name in ("cat", "dog") and probabilities.argmax() == index
    predictions = quiet(learn, "get_preds", dl=learn.dls.test_dl(files[:5]))[0]
    torch.testing.assert_close(predictions[0], probabilities)
    averaged, own = quiet(learn, "tta", n=2)
    assert averaged.shape == (len(learn.dls.valid_ds), 2) and len(own) == len(averaged)
    targets = quiet(learn, "get_preds", dl=learn.dls.test_dl(files[:5], with_labels=True))[1]
    assert [learn.dls.vocab[target] for target in targets] == [name_of(path.name) for path in files[:5]]


def test_multi_label_from_a_table_runs_with_one_line_more(pets, tmp_path):
    import pandas as pd

    files = get_image_files(pets)
    table = pd.DataFrame({"fname": [path.name for path in files], "is_valid": [number % 4 == 0 for number in range(48)],
                          "labels": [f"{name_of(path.name)} {'low' if number % 3 else 'high'}"
                                     for number, path in enumerate(files)]})
    dls = ImageDataLoaders.from_df(table, pets, valid_col="is_valid", label_delim=" ", label_col="labels", bs=8,
                                   item_tfms=Resize(40), batch_tfms=aug_transforms(size=32), num_workers=0)
    learn = busfast.accelerate(vision_learner(dls, resnet18, pretrained=False, path=tmp_path,
                                              metrics=partial(accuracy_multi, thresh=0.2)))
    quiet(learn, "fit", 1)
    assert learn.dls.c == 4 and learn.recorder.values[-1][-1] > 0.2


def test_training_on_the_same_batches_ends_with_the_same_weights(pets, tmp_path):
    states = []
    for fast in (False, True):
        set_seed(3)
        dls = dls_of(pets, item_tfms=Resize(32, method="squish"), batch_tfms=None)
        dls.train.rng.seed(7)
        model = timm.create_model(ARCH, num_classes=2)
        learn = Learner(dls, model, loss_func=CrossEntropyLossFlat(), path=tmp_path)
        if fast:
            busfast.accelerate(learn)
            learn.dls.train.rng.seed(7)
        losses = []
        for _ in range(2):
            torch.manual_seed(0)
            quiet(learn, "fit", 1, 1e-3)
            losses.append(learn.recorder.values[-1][1])
        states.append((losses, [x.sum().item() for x, _ in learn.dls.valid]))
    assert states[0][1] == pytest.approx(states[1][1], rel=1e-5)
    assert isinstance(learn.opt, FusedAdam)


def test_an_accelerated_learner_is_exported_as_fastais_own(pets, tmp_path):
    learn = busfast.accelerate(Learner(dls_of(pets), timm.create_model(ARCH, num_classes=2), path=tmp_path,
                                       loss_func=CrossEntropyLossFlat()))
    quiet(learn, "fit", 1)
    path = get_image_files(pets)[0]
    expected = quiet(learn, "predict", path)[2]
    learn.export("fast.pkl")
    assert isinstance(learn.dls.train, AcceleratedDL)
    torch.testing.assert_close(load_learner(tmp_path / "fast.pkl").predict(path)[2], expected)
    code = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("busfast", "cv2"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import __main__
__main__.name_of = lambda path: ""
sys.modules["models.test_accelerate"] = sys.modules["test_accelerate"] = __main__
from fastai.vision.all import load_learner
learn = load_learner({str(tmp_path / "fast.pkl")!r})
with learn.no_bar():
    print("row", *learn.predict({str(path)!r})[2].tolist())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    row = [float(value) for value in done.stdout.split("row ")[1].split()]
    assert row == pytest.approx(expected.tolist(), abs=1e-4)


def test_only_fastais_adam_becomes_the_fused_one():
    params = [nn.Parameter(torch.zeros(3))]
    made = fused(partial(Adam, mom=0.8, wd=0.1))(params, lr=0.1)
    assert isinstance(made, FusedAdam) and isinstance(made.opt, torch.optim.AdamW)
    assert made.hypers[0]["mom"] == 0.8 and made.hypers[0]["wd"] == 0.1
    assert type(fused(partial(Adam, decouple_wd=False))(params, lr=0.1).opt) is torch.optim.Adam
    assert fused(Adam)(params, lr=0.1).hypers[0]["wd"] == 0.01
    for other in (SGD, partial(SGD, mom=0.9), partial(Adam, params)):
        assert fused(other) is other


def test_what_is_neither_is_refused_with_the_way_out():
    with pytest.raises(UserError, match="takes fastai DataLoaders or a Learner, not list"):
        busfast.accelerate([])
