"""Whichever loader feeds it, fastai's DataLoaders and Learner keep all their habits.

Covers busfast/pipelines/dataloaders.py and busfast/pipelines/image_dl.py.
"""

from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import timm
import torch
from conftest import ARCH, SIZE
from fastai.callback.schedule import lr_find  # noqa: F401  (patches Learner)
from fastai.interpret import ClassificationInterpretation
from fastai.learner import Learner, load_learner
from fastai.losses import CrossEntropyLossFlat
from fastai.torch_core import set_seed
from fastai.vision import learner as _vision  # noqa: F401  (show_batch and show_results of images)
from PIL import Image

from busfast.errors import UserError
from busfast.pipelines import ImagePipeline, make_dls
from busfast.processes import rank_slice

matplotlib.use("agg")


@pytest.fixture(params=["dali", "torchvision"])
def loader(request):
    if request.param == "dali":
        pytest.importorskip("nvidia.dali")
    return request.param


@pytest.fixture
def dls(parts, loader):
    set_seed(3)
    return make_dls(parts, ImagePipeline(size=SIZE), bs=8, loader=loader, device="cpu")


@pytest.fixture
def learn(dls, tmp_path):
    model = timm.create_model(ARCH, num_classes=3)
    learn = Learner(dls, model, loss_func=CrossEntropyLossFlat(), path=tmp_path)
    with learn.no_bar(), learn.no_logging():
        yield learn


def same(a, b) -> bool:
    return all(torch.equal(x, y) for one, other in zip(a, b, strict=True) for x, y in zip(one, other, strict=True))


def test_batches_are_images_and_labels_of_their_rows(dls, parts):
    batches = list(dls.valid)
    labels = [list(dls.vocab)[index] for _, y in batches for index in y]
    assert labels == parts.only("valid").rows["label"].tolist()
    assert [len(y) for _, y in batches] == [8] * (len(labels) // 8) + [len(labels) % 8]
    assert batches[0][0].shape == (8, 3, SIZE, SIZE) and batches[0][0].dtype == torch.float32


def test_an_epoch_shows_each_training_image_once_in_a_new_order(dls, parts):
    count = len(parts.only("train"))
    orders = []
    for _ in range(2):
        seen = []
        original = dls.train.shuffle_fn

        def remember(indices, original=original, seen=seen):
            seen += original(indices)
            return seen
        dls.train.shuffle_fn = remember
        assert sum(len(y) for _, y in dls.train) == count
        dls.train.shuffle_fn = original
        assert sorted(seen) == list(range(count))
        orders.append(seen)
    assert orders[0] != orders[1]


@pytest.mark.parametrize("bs", [31, 15])  # the last batch has 2 images, so that one process has none of it; or 4
def test_processes_that_share_batches_make_the_very_images_that_one_makes_each_once(parts, loader, bs):
    def epochs(rank, world_size):
        set_seed(3)
        dls = make_dls(parts, ImagePipeline(size=SIZE), bs=bs, loader=loader, device="cpu", rank=rank,
                       world_size=world_size)
        return [[(x, y, dl.indices, dl.own) for x, y in dl] for dl in (dls.train, dls.train, dls.valid)]
    alone, *shares = [epochs(0, 1), *(epochs(rank, 3) for rank in range(3))]
    assert [len(batch[1]) for batch in alone[0]][-1] in (2, 4)
    for one, *several in zip(alone, *shares, strict=True):
        rows = []
        for batch, *own in zip(one, *several, strict=True):
            assert all(part[2] == batch[2] for part in own)
            rows += [row for part in own for row in part[2][part[3]]]
            for which in (0, 1):
                assert torch.equal(torch.cat([part[which] for part in own]), batch[which])
        assert sorted(rows) == list(range(len(rows))) and len(rows) == sum(len(batch[1]) for batch in one)


@pytest.mark.parametrize("of", range(1, 8))
def test_shares_follow_each_other_without_a_gap_and_differ_by_one_at_most(of):
    for length in range(40):
        parts = [list(range(length))[rank_slice(length, which, of)] for which in range(of)]
        assert sum(parts, []) == list(range(length))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_the_test_part_is_in_no_dataloader(dls, parts):
    held = set(parts.only("test").rows["image"])
    used = {str(path) for dl in dls.loaders for path in dl.dataset.items["image"]}
    assert held and not any(path.endswith(tuple(held)) for path in used)


def test_same_seed_gives_the_same_batches_whatever_the_threads(parts, loader):
    epochs = []
    for threads in (1, 3):
        set_seed(11)
        dls = make_dls(parts, ImagePipeline(size=32), bs=16, loader=loader, device="cpu", threads=threads)
        epochs.append([*dls.train, *dls.train])
    assert same(*epochs)


def test_one_batch_and_show_batch_within_an_epoch_do_not_disturb_it(parts, loader):
    epochs = []
    for disturb in (False, True):
        set_seed(11)
        dls = make_dls(parts, ImagePipeline(size=32), bs=16, loader=loader, device="cpu")
        batches = []
        for batch in dls.train:
            batches.append(batch)
            if disturb and len(batches) == 2:
                dls.one_batch()
                dls.show_batch()
        epochs.append(batches)
    assert same(*epochs)


def test_validation_pixels_are_the_same_whichever_loader_trains(dls, parts):
    set_seed(3)
    other = make_dls(parts, ImagePipeline(size=SIZE), bs=8, loader="torchvision", device="cpu")
    assert same(list(dls.valid), list(other.valid))


def test_validation_is_not_augmented_and_training_is(dls):
    first, second = (list(dls.valid) for _ in range(2))
    assert same(first, second)
    still = dls.train.new(shuffle=False)
    assert not same(list(still), list(still))


def test_a_last_batch_of_a_single_training_image_is_dropped(parts):
    rows = pd.concat([parts.only("train").rows.head(17), parts.only("valid").rows])
    dls = make_dls(replace(parts, rows=rows), ImagePipeline(size=32), bs=16, loader="torchvision", device="cpu")
    assert [len(y) for _, y in dls.train] == [16]


def test_lr_find_then_fit_then_interpretation(learn, dls):
    before = {name: value.clone() for name, value in learn.model.state_dict().items()}
    assert learn.lr_find(num_it=6, show_plot=False, suggest_funcs=None) is None
    assert all(torch.equal(value, before[name]) for name, value in learn.model.state_dict().items())
    learn.fit(1, 1e-3)
    interpretation = ClassificationInterpretation.from_learner(learn)
    assert interpretation.confusion_matrix().sum() == len(dls.valid_ds)
    interpretation.plot_top_losses(4)
    learn.show_results(max_n=4)


def test_show_batch_shows_the_pixels_and_the_label(dls):
    x, y = dls.valid.one_batch()
    _, _, samples = dls.valid._pre_show_batch((x, y), max_n=2)
    image, label = samples[0]
    assert 0 <= image.min() and 50 < image.max() <= 255 and image.float().std() > 5
    assert str(label) == dls.vocab[y[0]]
    expected = Image.open(dls.valid_ds.items["image"].iloc[0]).convert("RGB").resize((SIZE, SIZE), 2)
    assert np.abs(np.asarray(expected) - image.permute(1, 2, 0).numpy()).mean() < 1


def test_predict_takes_a_path_a_string_an_image_bytes_an_array_and_a_row(learn, dls):
    row = dls.valid_ds.items.iloc[0]
    path = Path(row["image"])
    expected = learn.get_preds()[0][0]
    for item in (path, str(path), Image.open(path), path.read_bytes(), np.asarray(Image.open(path)), row):
        label, index, probabilities = learn.predict(item)
        assert torch.allclose(probabilities, expected, atol=1e-5)
        assert label == dls.vocab[index] and index == expected.argmax()


def test_test_dl_takes_a_table_a_folder_and_a_list(learn, dls, phantom_folder):
    rows = dls.valid_ds.items.head(3)
    expected = learn.get_preds()[0][:3]
    labelled = learn.dls.test_dl(rows, with_labels=True)
    assert torch.equal(torch.cat([y for _, y in labelled]), torch.cat([y for _, y in dls.valid])[:3])
    assert torch.allclose(learn.get_preds(dl=labelled)[0], expected, atol=1e-5)
    assert torch.allclose(learn.get_preds(dl=learn.dls.test_dl(list(rows["image"])))[0], expected, atol=1e-5)
    assert len(learn.dls.test_dl(phantom_folder / "images").dataset) == 90


def test_export_and_load_learner_predict_what_was_trained(learn, dls, tmp_path):
    learn.fit(1, 1e-3)
    path = dls.valid_ds.items["image"].iloc[0]
    expected = learn.predict(path)[2]
    learn.export("learner.pkl")
    loaded = load_learner(tmp_path / "learner.pkl")
    assert type(loaded.dls.valid).__module__.startswith("fastai")
    assert torch.allclose(loaded.predict(path)[2], expected, atol=1e-5)
    assert torch.allclose(loaded.predict(path)[2], loaded.get_preds(dl=loaded.dls.test_dl([path]))[0][0])


def test_normalize_changes_every_part(dls):
    x, _ = dls.valid.one_batch()
    dls.normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    changed, _ = dls.valid.one_batch()
    assert torch.allclose(changed, x * 2 - 1, atol=1e-5)
    assert dls.train.image.mean == (0.5, 0.5, 0.5)


def test_a_table_without_parts_is_refused(table):
    with pytest.raises(UserError, match="Split it first"):
        make_dls(table)
