"""Accelerated DataLoaders are fastai's: the same pixels where they are fixed, the same distribution where random.

Covers busfast/pipelines/accelerate.py and busfast/pipelines/item_plan.py.
"""

import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.data.block import CategoryBlock, DataBlock, MultiCategoryBlock, RegressionBlock
from fastai.data.core import DataLoaders, TfmdDL
from fastai.data.transforms import RandomSplitter, get_image_files
from fastai.torch_core import TensorImage, TensorImageBW, set_seed
from fastai.vision.augment import (
    CropPad,
    Flip,
    FlipItem,
    PadMode,
    RandomResizedCrop,
    Resize,
    ResizeMethod,
    aug_transforms,
)
from fastai.vision.core import PILImage, PILImageBW, PILMask
from fastai.vision.data import ImageBlock, ImageDataLoaders
from PIL import Image

from busfast.errors import UserError
from busfast.pipelines.accelerate import AcceleratedDL, accelerate_dls
from busfast.pipelines.item_plan import plan_items


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """A folder of 40 photographs of other sizes, NAME_NUMBER.jpg; one is gray, one is turned by its EXIF."""
    folder, rng = tmp_path_factory.mktemp("pets"), np.random.default_rng(0)
    for number in range(40):
        size = ((120, 90), (90, 120), (101, 77))[number % 3]
        image = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
        exif = Image.Exif()
        if number == 1:
            exif[0x0112] = 6
        if number == 2:
            image = image.convert("L")
        image.save(folder / f"{('cat', 'dog')[number % 2]}_{number}.jpg", quality=90, exif=exif)
    return folder


def test_a_broken_image_is_named_before_an_epoch_begins(tmp_path, pets, capsys):
    for path in pets.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "cat_38.jpg").write_bytes((pets / "cat_38.jpg").read_bytes()[:400])
    dls = ImageDataLoaders.from_name_func(tmp_path, sorted(tmp_path.iterdir()), name_of, item_tfms=Resize(32), bs=8)
    with pytest.raises(UserError, match=r"The image .*cat_38.jpg cannot be read: .*Restore the file"):
        for dl in accelerate_dls(dls, cache=str(tmp_path / "cache")).loaders:  # it is in one of the two parts
            next(iter(dl))
    assert "cache: none" not in capsys.readouterr().out


def name_of(path):
    return Path(path).name.split("_")[0]


def both(make, **kwargs):
    """The DataLoaders of `make`, plain and accelerated."""
    set_seed(5)
    plain = make()
    set_seed(5)
    return plain, accelerate_dls(make(), **kwargs)


def from_names(pets, **kwargs):
    return ImageDataLoaders.from_name_func(pets, get_image_files(pets), name_of, seed=1, bs=8, num_workers=0, **kwargs)


def seen(dl, epochs=6):
    return torch.cat([x.as_subclass(torch.Tensor) for _ in range(epochs) for x, *_ in dl])


ITEMS = {
    "squish": [Resize(48, method=ResizeMethod.Squish)], "crop": [Resize(48)], "oblong": [Resize((40, 56))],
    "pad": [Resize(48, method=ResizeMethod.Pad, pad_mode=PadMode.Zeros)],
    "reflect": [Resize(48, method=ResizeMethod.Pad)], "random crop": [RandomResizedCrop(48, min_scale=0.3)],
    "crop_pad": [CropPad(64)], "resize, flip": [Resize(48), FlipItem(0.5)],
}


@pytest.mark.parametrize("cache", ["auto", "off"])
@pytest.mark.parametrize("name", ITEMS)
def test_validation_has_fastais_very_pixels_and_training_its_distribution(pets, name, cache):
    plain, fast = both(lambda: from_names(pets, item_tfms=ITEMS[name]), cache=cache)
    assert all(isinstance(dl, AcceleratedDL) for dl in fast.loaders)
    for (x, y), (own_x, own_y) in zip(plain.valid, fast.valid, strict=True):
        assert type(own_x) is TensorImage and type(own_y) is type(y) and torch.equal(y, own_y)
        torch.testing.assert_close(own_x, x, atol=1e-6, rtol=0)
    a, b = seen(plain.train, 12), seen(fast.train, 12)
    assert a.shape == b.shape
    if name in ("squish", "crop_pad"):
        assert torch.equal(a.sort(0)[0].mean(), b.sort(0)[0].mean())
    for statistic in (lambda x: x.mean((0, 2, 3)), lambda x: x.std((0, 2, 3)), lambda x: x.diff().abs().mean()):
        torch.testing.assert_close(statistic(b), statistic(a), atol=0.015, rtol=0.05)
    where = [x.mean((0, 1)) for x in (a, b)]  # the mean image: what lies where
    assert (where[0] - where[1]).abs().mean() < 0.03


def test_each_image_is_seen_once_and_a_seed_repeats_them_whatever_the_threads(pets):
    epochs = []
    for threads in (1, 3):
        set_seed(9)
        dls = accelerate_dls(from_names(pets, item_tfms=Resize(48), batch_tfms=aug_transforms(size=32)),
                             threads=threads)
        dls.train.drop_last = False
        set_seed(9)
        dls.train.rng = random.Random(4)
        epochs.append(list(dls.train))
        labels = sorted(str(dls.vocab[y]) for _, ys in epochs[-1] for y in ys)
        assert labels == sorted(name_of(path) for path in dls.train_ds.items)
    for (x, y), (own_x, own_y) in zip(*epochs, strict=True):
        assert torch.equal(x, own_x) and torch.equal(y, own_y)


@pytest.mark.parametrize("number", range(30))
def test_a_random_resized_crop_lies_within_the_image_and_has_the_shape_asked_for(number):
    step = RandomResizedCrop(32, min_scale=0.25, ratio=(3 / 4, 4 / 3))
    plan = plan_items([step], True, PILImage)
    rng, pixels = np.random.default_rng(number), np.zeros((60, 90, 3), np.uint8)
    pixels[20:40, 30:60] = 255
    assert plan.random.apply(pixels, rng.random(plan.random.numbers)).shape == (32, 32, 3)


def test_the_boxes_of_a_random_resized_crop_are_drawn_as_fastais(pets):
    from busfast.pipelines.item_plan import _random_box
    step, rng, boxes = RandomResizedCrop(32, min_scale=0.2), np.random.default_rng(0), [[], []]
    image = PILImage.create(np.zeros((75, 100, 3), np.uint8))
    random.seed(0)
    for _ in range(3000):
        step.before_call(image, 0)
        boxes[0].append([step.cp_size[0], step.cp_size[1], *step.tl])
        left, top, right, bottom = _random_box(100, 75, rng.random(22), step)
        boxes[1].append([right - left, bottom - top, left, top])
    theirs, ours = map(np.array, boxes)
    np.testing.assert_allclose(ours.mean(0), theirs.mean(0), atol=1)
    np.testing.assert_allclose(ours.std(0), theirs.std(0), atol=1)
    np.testing.assert_allclose(np.quantile(ours, [.1, .5, .9], 0), np.quantile(theirs, [.1, .5, .9], 0), atol=3)


def test_presizing_keeps_no_more_than_twice_the_result(pets):
    dls = accelerate_dls(from_names(pets, item_tfms=Resize(80), batch_tfms=aug_transforms(size=32)))
    assert dls.train.plan().form.meta["size"] == 64 and dls.valid.plan().form.meta["size"] == 80
    assert dls.train.one_batch()[0].shape == (8, 3, 32, 32)
    assert dls.valid.one_batch()[0].shape == (8, 3, 32, 32)


def test_from_folder_from_df_from_csv_and_from_lists_are_accelerated(pets, tmp_path):
    paths = get_image_files(pets)
    for path in paths:
        for part in ("train", "valid"):
            target = tmp_path / "folders" / part / name_of(path) / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    table = pd.DataFrame({"name": [path.name for path in paths], "label": [name_of(path) for path in paths]})
    table.to_csv(tmp_path / "table.csv", index=False)
    how = {"item_tfms": Resize(32), "bs": 8, "num_workers": 0}
    for make in (lambda: ImageDataLoaders.from_folder(tmp_path / "folders", **how),
                 lambda: ImageDataLoaders.from_df(table, pets, **how),
                 lambda: ImageDataLoaders.from_csv(pets, csv_fname=tmp_path / "table.csv", **how),
                 lambda: ImageDataLoaders.from_lists(pets, paths, [name_of(path) for path in paths], **how)):
        plain, fast = both(make)
        assert isinstance(fast.train, AcceleratedDL) and fast.vocab == plain.vocab
        torch.testing.assert_close(seen(fast.valid, 1), seen(plain.valid, 1), atol=1e-6, rtol=0)


def test_targets_of_any_type_keep_it(pets):
    files = list(get_image_files(pets))
    multi = DataBlock((ImageBlock, MultiCategoryBlock), get_x=lambda path: path, splitter=RandomSplitter(seed=1),
                      get_y=lambda path: [name_of(path), "odd" if int(path.stem.split("_")[1]) % 2 else "even"],
                      item_tfms=Resize(32))
    number = DataBlock((ImageBlock, RegressionBlock), get_y=lambda path: int(path.stem.split("_")[1]) / 10,
                       splitter=RandomSplitter(seed=1), item_tfms=Resize(32))
    two = DataBlock((ImageBlock, CategoryBlock, RegressionBlock), n_inp=1, splitter=RandomSplitter(seed=1),
                    get_y=[name_of, lambda path: 0.5], item_tfms=Resize(32))
    for block in (multi, number, two):
        plain, fast = both(lambda block=block: block.dataloaders(files, bs=8, num_workers=0))
        for batch, own in zip(plain.valid, fast.valid, strict=True):
            assert len(batch) == len(own)
            for target, own_target in zip(batch, own, strict=True):
                assert type(target) is type(own_target) and target.dtype == own_target.dtype
                torch.testing.assert_close(own_target, target)


def test_gray_images_have_one_channel(pets):
    block = DataBlock((ImageBlock(PILImageBW), CategoryBlock), get_y=name_of, splitter=RandomSplitter(seed=1),
                      item_tfms=Resize(32), batch_tfms=[Flip()])
    plain, fast = both(lambda: block.dataloaders(get_image_files(pets), bs=8, num_workers=0))
    x = fast.valid.one_batch()[0]
    assert type(x) is TensorImageBW and x.shape[1] == 1
    torch.testing.assert_close(x, plain.valid.one_batch()[0])
    assert fast.train.one_batch()[0].shape == (8, 1, 32, 32)


def test_what_cannot_be_accelerated_is_left_as_it_was_and_said(pets, capsys):
    mask = DataBlock((ImageBlock, ImageBlock(PILMask)), get_y=lambda path: path, splitter=RandomSplitter(seed=1),
                     item_tfms=Resize(32))
    pair = DataBlock((ImageBlock, ImageBlock, CategoryBlock), n_inp=2, getters=[lambda o: o, lambda o: o, name_of],
                     splitter=RandomSplitter(seed=1), item_tfms=Resize(32))
    opened = DataBlock((ImageBlock, CategoryBlock), get_x=lambda path: np.asarray(Image.open(path)), get_y=name_of,
                       splitter=RandomSplitter(seed=1), item_tfms=Resize(32))
    opened.type_tfms[0].clear(), opened.type_tfms[0].append(lambda o: PILImage.create(o))
    for block, reason in ((mask, "its target is a"), (pair, "it has 2 inputs"), (opened, "not opened by fastai's")):
        dls = block.dataloaders(get_image_files(pets), bs=8, num_workers=0)
        before = list(dls.loaders)
        assert accelerate_dls(dls) is dls and dls.loaders == before
        assert "left to fastai: " in (out := capsys.readouterr().out) and reason in out
    tables = DataLoaders(TfmdDL(list(range(10)), bs=2), TfmdDL(list(range(10)), bs=2))
    accelerate_dls(tables)
    assert "left to fastai: it is a TfmdDL of list" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["squish", "crop"])
def test_a_second_run_finds_the_images_of_all_parts_in_the_cache(pets, tmp_path, name, capsys):
    for decoded in (True, False):
        dls = accelerate_dls(from_names(pets, item_tfms=ITEMS[name]), cache=str(tmp_path / "cache"))
        seen(dls.train, 1), seen(dls.valid, 1), seen(dls.train, 1)
        out = capsys.readouterr().out
        assert out.count("decoding") == (2 if decoded else 0) and out.count("cache: ") == 2


def test_unknown_item_transforms_are_run_as_the_user_wrote_them_and_named(pets, capsys):
    def darken(image: PILImage):
        return PILImage.create(np.asarray(image) // 2)

    plain, fast = both(lambda: from_names(pets, item_tfms=[Resize(32), darken], batch_tfms=[Flip()]))
    torch.testing.assert_close(seen(fast.valid, 1), seen(plain.valid, 1), atol=1e-6, rtol=0)
    seen(fast.train, 1), seen(fast.train, 1)
    out = capsys.readouterr().out
    assert out.count("busfast: darken, Resize: image by image") == 2  # once each part
    assert "to full size" in out  # fastai runs functions first


def test_files_that_cannot_be_read_are_named(pets, tmp_path):
    for path in get_image_files(pets):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    dls = accelerate_dls(from_names(tmp_path, item_tfms=Resize(32)), cache="off")
    path = dls.train_ds.items[0]
    path.write_bytes(b"nothing")
    with pytest.raises(Exception, match=f"{path.name} cannot be read"):
        list(dls.train)
