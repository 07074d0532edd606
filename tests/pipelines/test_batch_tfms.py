"""The transforms of fastai's users run on pixels in 0 to 1, once, and busfast's own in one pass give the same.

Covers busfast/pipelines/batch_tfms.py and how busfast/pipelines/image_dl.py runs item transforms.
"""

import pytest
import torch
from conftest import ARCH, SIZE
from fastai.data.transforms import IntToFloatTensor, Normalize
from fastai.learner import Learner, load_learner
from fastai.losses import CrossEntropyLossFlat
from fastai.torch_core import TensorCategory, TensorImage, set_seed
from fastai.vision.augment import Brightness, Contrast, RandomErasing, RandomResizedCrop, Resize, aug_transforms
from fastai.vision.core import imagenet_stats
from fastai.vision.learner import model_meta, vision_learner
from fasttransform import Pipeline, Transform
from timm import create_model
from torch import nn

from busfast.models.learner import make_learner
from busfast.pipelines import ImagePipeline, make_dls
from busfast.pipelines.batch_tfms import Augment, BatchPipeline, make_normalize, stats_of

STILL = {"hflip": 0, "rotate": 0}


def dls_of(parts, loader="torchvision", **kwargs):
    set_seed(3)
    return make_dls(parts, kwargs.pop("image", ImagePipeline(size=SIZE, **STILL)), bs=8, loader=loader, device="cpu",
                    **kwargs)


class Seen(Transform):
    """Remembers what it was given."""

    order = 50

    def __init__(self):
        self.batches = []

    def encodes(self, x: TensorImage):
        self.batches.append(x.clone())
        return x


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("split_idx", [0, 1])
def test_the_one_pass_computes_what_fastais_steps_do(channels, normalized, split_idx):
    image = ImagePipeline(size=40, vflip=0.5)
    steps = [IntToFloatTensor(), Augment(image), *([make_normalize(*imagenet_stats)] if normalized else [])]
    pixels = torch.randint(0, 256, (9, channels, 40, 40), dtype=torch.uint8).expand(-1, 3, -1, -1)
    target = TensorCategory(torch.arange(9))
    results = []
    for pipeline in (BatchPipeline(steps, split_idx), Pipeline(steps, split_idx)):
        torch.manual_seed(1)
        x, y = pipeline((TensorImage(pixels), target))
        assert type(x) is TensorImage and type(y) is TensorCategory and y.equal(target)
        results.append(x)
    torch.testing.assert_close(*results, atol=1e-4, rtol=0)  # of noise, the hardest to place
    plain = pixels.float() / 255
    moved = (results[0] - (make_normalize(*imagenet_stats)(TensorImage(plain)) if normalized else plain)).abs().mean()
    assert (moved > 0.05) == (split_idx == 0)


def test_the_loader_delivers_bytes_and_the_pipeline_makes_floats_of_them(parts):
    dls = dls_of(parts)
    x, y = next(iter(dls.valid.create_batches(range(8))))
    assert type(x) is TensorImage and x.dtype == torch.uint8 and x.shape == (8, 3, SIZE, SIZE)
    assert type(y) is TensorCategory
    x, _ = dls.valid.one_batch()
    assert x.dtype == torch.float32 and 0 <= x.min() < x.max() <= 1


@pytest.mark.parametrize("how", ["argument", "add_tfms"])
def test_batch_transforms_see_pixels_in_0_to_1_whoever_normalizes_later(parts, tmp_path, how):
    seen = Seen()
    tfms = [*aug_transforms(size=48), Brightness(p=1.0), Contrast(p=1.0), seen]
    dls = dls_of(parts, batch_tfms=tfms if how == "argument" else None)
    if how == "add_tfms":
        dls.add_tfms(tfms, "after_batch")
    learn = make_learner(dls, ARCH, weights="none", path=tmp_path)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
    assert seen.batches and all(0 <= x.min() and x.max() <= 1 for x in seen.batches)
    assert learn.dls.train.one_batch()[0].shape[-2:] == (48, 48)
    learn.dls.show_batch()
    path = learn.dls.valid_ds.items["image"].iloc[0]
    with learn.no_bar():
        predicted, loaded = learn.predict(path)[2], learn.get_preds()[0][0]
        torch.testing.assert_close(predicted, loaded)
        assert not torch.equal(learn.tta(n=2)[0], learn.get_preds()[0])
        learn.export("batch.pkl")
    torch.testing.assert_close(load_learner(tmp_path / "batch.pkl").predict(path)[2], predicted)


def test_training_transforms_change_training_batches_only(parts):
    dls = dls_of(parts, batch_tfms=[RandomErasing(p=1.0, sh=0.4)])
    plain = dls_of(parts)
    assert torch.equal(dls.valid.one_batch()[0], plain.valid.one_batch()[0])
    assert not torch.equal(dls.train.one_batch()[0], plain.train.one_batch()[0])


def small_model(pretrained=True):
    return nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU()), nn.AdaptiveAvgPool2d(1))


def test_vision_learner_normalizes_once_and_its_export_alike(parts, tmp_path, monkeypatch):
    meta = {"cut": -1, "split": lambda model: [list(model[0].parameters()), list(model[1].parameters())]}
    monkeypatch.setitem(model_meta, small_model, meta | {"stats": imagenet_stats})
    dls = dls_of(parts)
    plain = dls.valid.one_batch()[0]
    learn = vision_learner(dls, small_model, path=tmp_path)
    expected = Normalize.from_stats(*imagenet_stats, cuda=False)(TensorImage(plain))
    torch.testing.assert_close(learn.dls.valid.one_batch()[0], expected, atol=2e-5, rtol=0)
    assert learn.dls.valid.image.mean == pytest.approx(imagenet_stats[0])  # what exports and engines use
    path = dls.valid_ds.items["image"].iloc[0]
    with learn.no_bar(), learn.no_logging():
        learn.fine_tune(1)
        predicted = learn.predict(path)[2]
        learn.export("vision.pkl")
    torch.testing.assert_close(load_learner(tmp_path / "vision.pkl").predict(path)[2], predicted)


def test_a_normalize_without_statistics_takes_those_of_a_batch(parts):
    dls = dls_of(parts)
    dls.add_tfms(Normalize(), "after_batch")
    x = dls.train.one_batch()[0]
    assert abs(x.mean()) < 0.5 and abs(x.std() - 1) < 0.5 and dls.train.image.std[0] < 0.5


def test_statistics_of_the_weights_take_the_place_of_others(parts, tmp_path):
    dls = dls_of(parts, batch_tfms=Normalize.from_stats(*imagenet_stats, cuda=False))
    learn = make_learner(dls, ARCH, weights="none", path=tmp_path)
    steps = [step for step in learn.dls.train.after_batch.fs if isinstance(step, Normalize)]
    assert [stats_of(step)[0] for step in steps] == [tuple(learn.weights_used["mean"])]


@pytest.mark.parametrize("loader", ["dali", "torchvision"])
@pytest.mark.parametrize("cache", ["off", "auto"])
def test_item_transforms_run_on_each_image_and_are_named(parts, loader, cache, capsys):
    if loader == "dali":
        pytest.importorskip("nvidia.dali")
    dls = dls_of(parts, loader, cache=cache, item_tfms=[RandomResizedCrop(40, min_scale=0.2)])
    assert dls.train.one_batch()[0].shape == (8, 3, 40, 40)
    still = dls.train.new(shuffle=False)
    assert not torch.equal(still.one_batch()[0], still.one_batch()[0])
    assert torch.equal(dls.valid.one_batch()[0], dls.valid.one_batch()[0])
    assert capsys.readouterr().out.count("RandomResizedCrop: image by image") == 3  # train, still, valid: once each


def test_item_transforms_added_later_are_exported(parts, tmp_path):
    dls = dls_of(parts)
    dls.add_tfms([Resize(32)], "after_item")
    learn = Learner(dls, create_model(ARCH, num_classes=3), loss_func=CrossEntropyLossFlat(), path=tmp_path)
    path = dls.valid_ds.items["image"].iloc[0]
    with learn.no_bar():
        predicted = learn.predict(path)[2]
        learn.export("item.pkl")
        torch.testing.assert_close(load_learner(tmp_path / "item.pkl").predict(path)[2], predicted)


@pytest.mark.parametrize("loader", ["dali", "torchvision"])
def test_the_batch_size_may_be_changed(parts, loader):
    if loader == "dali":
        pytest.importorskip("nvidia.dali")
    dls = dls_of(parts, loader)
    list(dls.train)
    dls.train.bs = 20
    assert [len(y) for _, y in dls.train][0] == 20
    assert dls.train.bs == 20 and dls.valid.bs == 8


def test_a_test_part_finds_its_images_whatever_the_working_folder(parts, tmp_path, monkeypatch):
    dls = dls_of(parts)
    monkeypatch.chdir(tmp_path)
    test = parts.only("test")
    expected = [list(dls.vocab).index(label) for label in test.rows["label"]]
    batches = []
    for items in (test, test.rows):
        dl = dls.test_dl(items, with_labels=True)
        assert [int(label) for _, y in dl for label in y] == expected
        batches.append(torch.cat([x for x, _ in dl]))
    assert torch.equal(*batches)


def test_predict_takes_a_tensor(parts, tmp_path):
    dls = dls_of(parts)
    learn = make_learner(dls, ARCH, weights="none", path=tmp_path)
    pixels = torch.randint(0, 256, (3, SIZE, SIZE), dtype=torch.uint8)
    with learn.no_bar():
        results = [learn.predict(item)[2] for item in (pixels, pixels.float() / 255, pixels.movedim(0, -1).numpy())]
        torch.testing.assert_close(results[0], results[1])
        torch.testing.assert_close(results[0], results[2])
        assert learn.predict(pixels[:1])[2].sum() == pytest.approx(1)
        learn.export("tensor.pkl")
    torch.testing.assert_close(load_learner(tmp_path / "tensor.pkl").predict(pixels)[2], results[0])
