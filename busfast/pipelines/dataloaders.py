"""A split table -> fastai DataLoaders whose batches DALI or torchvision makes; all else stays fastai's own."""

import math
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from fastai.data.core import DataLoaders, Datasets, TfmdDL
from fastai.data.load import chunked
from fastai.data.transforms import Categorize, IntToFloatTensor, Normalize, ToTensor
from fastai.torch_core import TensorCategory, TensorImage
from fasttransform import Pipeline, Transform
from PIL import Image

from busfast.data.images import SUFFIXES
from busfast.data.paths import locate, read_source_folders
from busfast.data.split import PARTS, Split
from busfast.data.table import CLASSES, as_table
from busfast.errors import UserError
from busfast.pipelines.augment import augment_and_normalize, collate
from busfast.pipelines.backends import LOADERS, REFERENCE, choose_device, choose_loader
from busfast.pipelines.cache import Cache, Pixels
from busfast.pipelines.image import ImagePipeline, sample_augmentation
from busfast.pipelines.item_transforms import item_transforms
from busfast.pipelines.prefetch import name_unreadable
from busfast.processes import rank_slice


class Normalized(Transform):
    """Says that a batch comes normalised from the loader: nothing to do, but to undo for showing."""

    order = 99

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]):
        self.mean, self.std = (torch.tensor(value).view(1, -1, 1, 1) for value in (mean, std))

    def decodes(self, x: TensorImage):
        return (x * self.std.to(x.device) + self.mean.to(x.device)).clamp(0, 1)


class ImageDL(TfmdDL):
    """fastai's DataLoader over rows of a table, but for one thing: how the pixels of a batch are made.

    Args:
        dataset: fastai Datasets whose items are a table with a column `image` (absolute path or pixels).
        image: the image pipeline.
        loader: a key of `LOADERS`.
        threads: decoding threads; 0: one a core.
        cache: the decoded cache of the images; None: they are decoded in every epoch.
        place: which process this is, of how many that share each batch. All of them draw the same order and the same
            augmentation, and each makes its own images; where the last batch has too few, that may be none.

    Attributes:
        indices: which rows of the table the last batch was made of, by all processes together.
        own: which of these this process made.
    """

    def __init__(self, dataset=None, image: ImagePipeline | None = None, loader: str = "torchvision",
                 threads: int = 0, cache: Cache | None = None, place: tuple[int, int] = (0, 1), **kwargs):
        self.image, self.loader_name, self.threads, self.cache, self.place = image, loader, threads, cache, place
        self._loader: Any = None
        self._targets: list[torch.Tensor] | None = None
        self.indices: tuple[int, ...] = ()
        self.own = slice(None)
        # Workers are processes in fastai; here threads decode.
        super().__init__(dataset, **(kwargs | {"num_workers": 0}))

    def new(self, dataset=None, cls=None, **kwargs):
        own = {"image": self.image, "loader": self.loader_name, "threads": self.threads,
               "cache": self.cache if dataset is None else None}
        return super().new(dataset, cls, **(own | kwargs))

    def __getstate__(self):
        return self.__dict__ | {"_loader": None, "cache": None}

    def create_batches(self, samps: Iterable[int]):
        """Turns fastai's indices into batches; only augments the training part."""
        augment = getattr(self.dataset, "split_idx", None) == 0
        rng = np.random.default_rng(self.rng.getrandbits(64)) if augment else None
        sources = self.dataset.items["image"].tolist()
        taken: deque = deque()

        def batches():
            for indices in chunked(samps, self.bs, self.drop_last):
                taken.append((indices, sample_augmentation(self.image, len(indices), rng) if augment else None))
                if own := indices[rank_slice(len(indices), *self.place)]:
                    yield [sources[index] for index in own]

        def finished(pixels):
            self.indices, augmentation = taken.popleft()
            self.own = rank_slice(len(self.indices), *self.place)
            return (TensorImage(augment_and_normalize(pixels, self.image, augmentation[self.own] if augment else None)),
                    *self.targets(self.indices[self.own]))

        kept = self.prepare()
        if kept is not None:
            fitted = _read_ahead(kept, batches())
        else:
            if self._loader is None:
                self._loader = LOADERS[self.loader_name](self.image, math.ceil(self.bs / self.place[1]), self.device,
                                                         self.threads, not augment)
            fitted = self._loader.batches(batches())
        for pixels in fitted:
            self.lap("waiting")
            pixels = pixels.to(self.device, non_blocking=True)
            self.lap("to_device")
            yield finished(pixels)
        if taken:  # the last batch, which has fewer images than there are processes
            yield finished(torch.empty((0, self.image.size, self.image.size, 3), dtype=torch.uint8, device=self.device))

    def targets(self, indices: Sequence[int]) -> list[TensorCategory]:
        """Returns the targets of some rows of the table, int64 (N,) each; one, the class."""
        if self._targets is None:
            # Some at a time: 100,000 tensors of one number each would take 50 MB.
            self._targets = [torch.cat([torch.stack([tl[index] for index in some])
                                        for some in chunked(range(len(self.dataset)), 1000)])
                             for tl in self.dataset.tls[1:]]
        return [TensorCategory(target[list(indices)]) for target in self._targets]

    def lap(self, phase: str) -> None:
        """Is told what the time since the last border went into; `busfast.training.profile` listens here."""

    def prepare(self) -> Pixels | None:
        """Decodes the images now, if there is a cache to keep their pixels in; returns the pixels."""
        return self.cache.pixels(self.image) if self.cache is not None else None

    @property
    def cached_images(self) -> int:
        """How many images, of all parts, come out of the cache."""
        kept = self.prepare()
        return len(kept) if kept is not None else 0

    def set_image(self, image: ImagePipeline) -> None:
        """Goes on with another image pipeline."""
        self.image, self._loader = image, None
        self.after_batch = Pipeline([Normalized(image.mean, image.std)])

    def to(self, device):
        self._loader = None
        super().to(device)


def _read_ahead(pixels: Pixels, batches: Iterable[list[str]]) -> Iterator[torch.Tensor]:
    """Reads batches out of the cache, one ahead of the consumer: uint8 (N, size, size, 1 or 3)."""
    read_one = name_unreadable(pixels.read)

    def read(paths):
        return collate([read_one(path) for path in paths])

    with ThreadPoolExecutor(1) as pool:
        running = None
        for paths in batches:
            following = pool.submit(read, paths)
            if running is not None:
                yield running.result()
            running = following
        if running is not None:
            yield running.result()


class TableDataLoaders(DataLoaders):
    """DataLoaders made from a table; `train` and `valid`, never the test part."""

    @property
    def image(self) -> ImagePipeline:
        """The image pipeline of all parts."""
        return self.train.image

    def normalize(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """Takes the mean and std that the model's weights were trained with (RGB, of pixels in 0 to 1)."""
        for dl in self.loaders:
            dl.set_image(replace(dl.image, mean=tuple(mean), std=tuple(std)))

    def test_dl(self, test_items, rm_type_tfms=None, with_labels: bool = False, **kwargs):
        """Makes a DataLoader of new images, through the pixels of validation.

        Args:
            test_items: a table (columns image and, `with_labels`, label), a folder, or a list of paths, Pillow
                images, arrays or encoded bytes.
            rm_type_tfms: unused; fastai passes it.
            with_labels: whether the table's labels come along.
        """
        rows = to_rows(test_items)
        kwargs.pop("process", None)  # fastai's Interpretation passes it for tabular data
        dataset = self.valid_ds
        tls = dataset.tls if with_labels else dataset.tls[:dataset.n_inp]
        return self.valid.new(Datasets(tls=[tl._new(rows, split_idx=1) for tl in tls]), **kwargs)

    def new_empty(self) -> DataLoaders:
        """The same for inference, in fastai's own classes alone: what `learn.export()` puts into the file.

        It carries busfast's few functions for reading an image by value, so whoever loads it needs neither
        busfast nor DALI.
        """
        dataset = _datasets(_blank(self.vocab), self.image, tuple(self.vocab), [[0], [0]])
        for tl in dataset.tls:
            tl.types = [(object,)]  # what may be predict()ed: a path, an image, bytes, an array, a row
        after_batch = [IntToFloatTensor(), Normalize.from_stats(self.image.mean, self.image.std, cuda=False)]
        dl = TfmdDL(dataset.subset(1), bs=self.valid.bs, num_workers=0, after_item=[ToTensor()],
                    after_batch=after_batch, device=torch.device("cpu"))
        empty = [dl.new(dataset.subset(1).new_empty()) for _ in self.loaders]
        return DataLoaders(*empty, path=self.path, device=torch.device("cpu"))


def to_rows(items: Any) -> pd.DataFrame:
    """Brings what fastai's users hand over to a table with a column `image`."""
    if isinstance(items, pd.DataFrame):
        return items.reset_index(drop=True)
    if isinstance(items, str | Path):
        items = list_images(items)
    rows = [item["image"] if isinstance(item, pd.Series | dict) else item for item in items]
    column = np.empty(len(rows), dtype=object)
    column[:] = [os.fspath(row) if isinstance(row, Path) else row for row in rows]
    return pd.DataFrame({"image": column})


def list_images(path: str | Path) -> list[str]:
    """Returns the image files below a folder, sorted, or the file itself.

    Raises:
        UserError: there is nothing at `path`, or no image in the folder.
    """
    path = Path(path)
    if os.path.isfile(path):
        return [str(path)]
    if not os.path.isdir(path):
        raise UserError(f"There is no file or folder '{path}'.")
    files = sorted(str(file) for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise UserError(f"The folder '{path}' holds no image ({', '.join(SUFFIXES)}).")
    return files


def make_dls(split: Split | pd.DataFrame, image: ImagePipeline | None = None, *, classes: tuple[str, ...] = CLASSES,
             bs: int = 32, loader: str = "auto", device: str = "auto", threads: int = 0, cache: str = "off",
             path: str | Path = ".", place: tuple[int, int] = (0, 1)) -> TableDataLoaders:
    """Makes fastai DataLoaders of the train and valid parts of a split table.

    Args:
        split: as `split_table` or `read_split` returns it; or rows with the columns image (path, or pixels), label and
            part.
        image: the image pipeline; default: `ImagePipeline()`.
        classes: the labels in the model's order; they become `dls.vocab`.
        bs: images a batch. In training the last, shorter batch is kept, unless it is a single image, which batch
            normalisation cannot learn from.
        loader: "auto", "dali" or "torchvision"; makes the training batches. Validation always has the reference
            pixels, those of torchvision on Pillow images.
        device: "auto", "cuda", "mps" or "cpu".
        threads: decoding threads; 0: one a core.
        cache: "off"; "auto": keep decoded pixels in this user's cache folder; or the folder to keep them in. What is
            missing there is decoded now.
        path: where the Learner's files go.
        place: which process this is, of how many that share each batch; `bs` counts the images of all of them.

    Returns:
        DataLoaders of (x, y): float32 (N, 3, size, size), normalised, channels last; int64 (N,).

    Raises:
        UserError: the loader or device is not there; the table has no part, or no image in one.
    """
    image = image or ImagePipeline()
    device = choose_device(device)
    loader, _ = choose_loader(loader, device)
    table = as_table(split)
    if "part" not in table.rows:
        raise UserError("The table has no column 'part'. Split it first: split_table(table, 'stratified').")
    folders = read_source_folders(table.root)
    rows = table.rows.reset_index(drop=True)
    # Of type object, whose copies share their texts: fastai copies the table for each part and transform.
    rows["image"] = pd.Series([str(locate(table.root, image, folders)) if isinstance(image, str) else image
                               for image in rows["image"]], dtype=object)
    splits = [np.flatnonzero(rows["part"] == part).tolist() for part in PARTS[:2]]
    for part, indices in zip(PARTS[:2], splits, strict=True):
        if not indices:
            raise UserError(f"The table has no image in part '{part}'.")
    dataset = _datasets(rows, image, tuple(classes), splits)
    kept = None
    if cache != "off":
        kept = Cache(cache, table.root, rows["image"][rows["part"].isin(PARTS[:2])].tolist(), threads)
    how = {"image": image, "loader": loader, "threads": threads, "cache": kept, "bs": bs, "device": device,
           "place": place, "after_item": [ToTensor()],
           "after_batch": [Normalized(image.mean, image.std)]}
    train = ImageDL(dataset.train, shuffle=True, drop_last=len(splits[0]) % bs == 1, **how)
    train.prepare()  # now, rather than within the first batch
    valid = ImageDL(dataset.valid, **(how | {"loader": REFERENCE}))
    return TableDataLoaders(train, valid, path=path, device=device)


def inference_dls(image: ImagePipeline, classes: tuple[str, ...], **kwargs) -> TableDataLoaders:
    """Makes DataLoaders for `test_dl` alone; they hold one blank image. `kwargs`: bs, device, threads of `make_dls`."""
    rows = pd.concat([_blank(classes).assign(part=part) for part in PARTS[:2]], ignore_index=True)
    return make_dls(rows, image, classes=classes, loader=REFERENCE, **kwargs)


def _blank(classes) -> pd.DataFrame:
    return pd.DataFrame({"image": [Image.new("RGB", (1, 1))], "label": [classes[0]]})


def _datasets(rows: pd.DataFrame, image: ImagePipeline, classes: tuple[str, ...], splits: list) -> Datasets:
    open_image, label = item_transforms(image.size, image.resize, image.channels)
    return Datasets(rows, [[open_image], [label, Categorize(vocab=list(classes), sort=False)]], splits=splits)
