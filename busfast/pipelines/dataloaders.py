"""A split table -> fastai DataLoaders of its training and validation part; `image_dl` makes their batches."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from fastai.data.core import DataLoaders, Datasets, TfmdDL
from fastai.data.transforms import (
    Categorize,
    IntToFloatTensor,
    MultiCategorize,
    Normalize,
    OneHotEncode,
    ToTensor,
)
from fastcore.foundation import L
from fasttransform import Pipeline
from PIL import Image

from busfast.data.labels import order_classes
from busfast.data.sources.listing import list_images
from busfast.data.split import PARTS, Split
from busfast.data.table import Table, as_table
from busfast.errors import UserError
from busfast.pipelines.backends import REFERENCE, Backend, choose_backend
from busfast.pipelines.batch_tfms import Augment, make_normalize, stats_of
from busfast.pipelines.cache import Cache
from busfast.pipelines.image import ImagePipeline
from busfast.pipelines.image_dl import ImageDL
from busfast.pipelines.item_transforms import item_transforms, to_source


class TableDataLoaders(DataLoaders):
    """DataLoaders made from a table; `train` and `valid`, never the test part.

    Attributes:
        root: the folder that relative paths of `test_dl` are below.
        split: the split they were made of, where `busfast.dataloaders` made it.
        label_delim: the character between the labels of an image; "": each has one.
    """

    root: Path | None = None
    split: Split | None = None
    label_delim: str = ""

    @property
    def image(self) -> ImagePipeline:
        """The image pipeline of all parts."""
        return self.train.image

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several labels; targets are then float32, (N, k)."""
        return bool(self.label_delim)

    def normalize(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Normalizes with the mean and std of the model's pretrained weights (RGB, of pixels in 0 to 1)."""
        for dl in self.loaders:
            dl.normalize(mean, std)

    def add_tfms(self, tfms, event: str, loaders=None) -> None:
        """fastai's `add_tfms`; a Normalize, as `vision_learner` adds it, takes the place of the one before."""
        tfms = list(tfms.fs if isinstance(tfms, Pipeline) else L(tfms))
        normalize = [step for step in tfms if isinstance(step, Normalize)]
        if event == "after_batch" and normalize:
            normalize[-1].setup(self.train)  # without statistics, they come from a batch
            self.normalize(*stats_of(normalize[-1]))
            tfms = [step for step in tfms if not isinstance(step, Normalize)]
        if tfms:
            super().add_tfms(tfms, event, loaders)

    def test_dl(self, test_items, rm_type_tfms=None, with_labels: bool = False, **kwargs):
        """Makes a DataLoader of new images with the pixels of validation.

        Args:
            test_items: a Split, Table or DataFrame (columns image and, `with_labels`, label), a folder, or a list of
                paths, Pillow images, arrays, tensors or encoded bytes.
            rm_type_tfms: unused; fastai passes it.
            with_labels: whether batches have the labels, too.
        """
        rows = to_rows(test_items, self.root)
        kwargs.pop("process", None)  # fastai's Interpretation passes it for tabular data
        dataset = self.valid_ds
        tls = dataset.tls if with_labels else dataset.tls[:dataset.n_inp]
        return self.valid.new(Datasets(tls=[tl._new(rows, split_idx=1) for tl in tls]), **kwargs)

    def new_empty(self) -> DataLoaders:
        """Returns the same for inference, of fastai's own classes: what `learn.export()` writes.

        busfast's functions that read an image are pickled by value, so loading it needs neither busfast nor DALI.
        """
        dataset = _datasets(_blank(self.vocab), self.image, tuple(self.vocab), [[0], [0]], self.label_delim)
        for tl in dataset.tls:
            tl.types = [(object,)]  # predict() takes a path, an image, bytes, an array or a row
        after_batch = [make_normalize(*stats_of(step)) if isinstance(step, Normalize) else step
                       for step in self.valid.after_batch.fs if not isinstance(step, Augment)]
        dl = TfmdDL(dataset.subset(1), bs=self.valid.bs, num_workers=0, after_item=list(self.valid.after_item.fs),
                    after_batch=after_batch, device=torch.device("cpu"))
        empty = [dl.new(dataset.subset(1).new_empty()) for _ in self.loaders]
        return DataLoaders(*empty, path=self.path, device=torch.device("cpu"))


def to_rows(items: Any, root: Path | None = None) -> pd.DataFrame:
    """Makes rows with a column `image` of whatever fastai's users pass; paths in a table may be relative to `root`."""
    if isinstance(items, pd.DataFrame) and (root is None or not items["image"].map(type).eq(str).all()):
        return items.reset_index(drop=True)
    if isinstance(items, pd.DataFrame):
        below = map(str, Table(items, root).image_paths())
        paths = [path if os.path.isfile(path) else image for path, image in zip(below, items["image"], strict=True)]
        return items.assign(image=paths).reset_index(drop=True)
    if isinstance(items, Table):
        return items.rows.assign(image=list(map(str, items.image_paths()))).reset_index(drop=True)
    if isinstance(items, str | Path):
        items = list_images(items)
    rows = [item["image"] if isinstance(item, pd.Series | dict) else item for item in items]
    column = np.empty(len(rows), dtype=object)
    column[:] = [os.fspath(row) if isinstance(row, Path) else to_source(row) for row in rows]
    return pd.DataFrame({"image": column})


def make_dls(split: Split | pd.DataFrame, image: ImagePipeline | None = None, *, classes: tuple[str, ...] = (),
             label_delim: str = "", bs: int = 32, loader: str = "auto", device: str = "auto", threads: int = 0,
             cache: str = "off", path: str | Path = ".", item_tfms: Any = None, batch_tfms: Any = None,
             val_bs: int | None = None, backend: Backend | None = None, rank: int = 0,
             world_size: int = 1) -> TableDataLoaders:
    """Makes fastai DataLoaders of the train and valid parts of a split table.

    Args:
        split: as `split_table` or `read_split` returns it; or rows with the columns image (path, or pixels), label and
            part.
        image: the image pipeline; default: `ImagePipeline()`, without augmentation if `batch_tfms` are given.
        classes: the labels in the model's order, which become `dls.vocab`; default: those of the table.
        label_delim: the character between the labels of an image that has several; "": each has one.
        bs: images per batch, of all ranks. In training the last, shorter batch is kept, unless batch normalization
            cannot learn from it: a single image; on CUDA, fewer images than there are ranks.
        loader: "auto", "dali" or "torchvision"; makes the training batches. Validation always has the reference
            pixels, those of Pillow.
        device: "auto", "cuda", "mps" or "cpu".
        threads: decoding threads; 0: one per core.
        cache: "off"; "auto": keep decoded pixels in this user's cache folder; or the folder to keep them in. Missing
            images are decoded now.
        path: where the Learner's files go.
        item_tfms, batch_tfms: fastai's, as for a DataBlock; item transforms run on the resized images, batch transforms
            on pixels in 0 to 1.
        val_bs: images per batch of validation; default: `bs`.
        backend: loader and device, if they have been chosen already.
        rank, world_size: this process, and how many share each batch.

    Returns:
        DataLoaders of (x, y): float32 (N, 3, height, width), channels last, in 0 to 1 until a learner normalizes them
        with the statistics of its weights; int64 (N,), or float32 (N, classes) of several labels.

    Raises:
        UserError: loader or device is unavailable; the table has no column part, or no image in a part.
    """
    backend, table = backend or choose_backend(loader, device), as_table(split)
    image = image or default_image(ImagePipeline.size, batch_tfms)
    if "part" not in table.rows:
        raise UserError("The table has no column 'part'. Split it first: split_table(table, 'stratified').")
    rows = table.rows.reset_index(drop=True)
    if all(isinstance(source, str) for source in rows["image"]):
        # dtype object: fastai copies the rows for each part and transform, and these copies share their strings.
        rows["image"] = pd.Series(list(map(str, table.image_paths())), dtype=object)
    splits = [np.flatnonzero(rows["part"] == part).tolist() for part in PARTS[:2]]
    for part, indices in zip(PARTS[:2], splits, strict=True):
        if not indices:
            raise UserError(f"The table has no image in part '{part}'.")
    dataset = _datasets(rows, image, tuple(classes) or order_classes(rows["label"], label_delim), splits, label_delim)
    decoded = None
    if cache != "off":
        decoded = Cache(cache, table.root, rows["image"][rows["part"].isin(PARTS[:2])].tolist(), threads)
    after_batch = [IntToFloatTensor(), *L(batch_tfms)]
    if image.hflip or image.vflip or image.rotate:
        after_batch.append(Augment(image))
    shared: dict[str, Any] = {
        "image": image, "threads": threads, "cache": decoded, "device": backend.device, "rank": rank,
        "world_size": world_size, "after_item": [*L(item_tfms), ToTensor()], "after_batch": after_batch}
    rest = len(splits[0]) % bs
    # On CUDA, batch normalization over all ranks fails where one of them has no image.
    drop_last = rest == 1 or backend.device.type == "cuda" and 0 < rest < world_size
    train = ImageDL(dataset.train, loader=backend.loader, bs=bs, shuffle=True, drop_last=drop_last, **shared)
    train.prepare()  # now, not within the first batch
    valid = ImageDL(dataset.valid, loader=REFERENCE, bs=val_bs or bs, **shared)
    dls = TableDataLoaders(train, valid, path=path, device=backend.device)
    dls.root, dls.label_delim = table.root, label_delim
    if (image.mean, image.std) != (ImagePipeline.mean, ImagePipeline.std):
        dls.normalize(image.mean, image.std)
    return dls


def default_image(size: int | tuple[int, int], batch_tfms: Any) -> ImagePipeline:
    """Returns the image pipeline of a size (a side, or height and width); the user's batch transforms take the place of
    its augmentation."""
    height, width = (size, 0) if isinstance(size, int) else size
    image = ImagePipeline(height, width=0 if width == height else width)
    return replace(image, hflip=0, rotate=0) if batch_tfms else image


def inference_dls(image: ImagePipeline, classes: tuple[str, ...], **kwargs) -> TableDataLoaders:
    """Makes DataLoaders for `test_dl` only, of a blank image. `kwargs`: bs, device and threads of `make_dls`."""
    rows = pd.concat([_blank(classes).assign(part=part) for part in PARTS[:2]], ignore_index=True)
    return make_dls(rows, image, classes=classes, loader=REFERENCE, **kwargs)


def _blank(classes) -> pd.DataFrame:
    return pd.DataFrame({"image": [Image.new("RGB", (1, 1))], "label": [classes[0]]})


def _datasets(rows: pd.DataFrame, image: ImagePipeline, classes: tuple[str, ...], splits: list,
              label_delim: str) -> Datasets:
    open_image, label = item_transforms(*image.fit, label_delim)
    encode = [MultiCategorize(vocab=list(classes)), OneHotEncode(len(classes))] if label_delim else \
        [Categorize(vocab=list(classes), sort=False)]
    return Datasets(rows, [[open_image], [label, *encode]], splits=splits)
