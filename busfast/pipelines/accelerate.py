"""Any fastai image DataLoaders -> the same object, fast: images are decoded once, and augmented a batch at a time."""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from fastai.data.core import DataLoaders, Datasets, TfmdDL
from fastai.data.load import chunked
from fastai.data.transforms import ToTensor
from fastai.torch_core import TensorImageBase
from fastai.vision.augment import AffineCoordTfm
from fastai.vision.core import PILBase, PILImage, PILImageBW, TensorPoint
from fastcore.foundation import L
from fasttransform import Transform
from PIL import Image

from busfast.pipelines.augment import collate
from busfast.pipelines.batch_tfms import is_noop
from busfast.pipelines.cache import Cache
from busfast.pipelines.image_dl import ImageDL, step_name
from busfast.pipelines.item_plan import ItemPlan, plan_items
from busfast.pipelines.prefetch import name_unreadable
from busfast.pipelines.transfer import send
from busfast.processes import cores
from busfast.progress import map_ahead


class AcceleratedDL(ImageDL):
    """fastai's DataLoader over any Datasets whose input is an image; only the way to a batch is another one.

    Args:
        dataset: fastai Datasets; the first of its `tls` opens an image.
        kind: PILImage or PILImageBW, the class that opens them.
        cache: the decoded cache of its files; None: they are decoded in every epoch.
        threads: that read, decode and crop; 0: one per core.
    """

    def __init__(self, dataset=None, kind: Any = PILImage, cache: Cache | None = None, threads: int = 0, **kwargs):
        self.kind = kind
        self._sources: list | None = None
        super().__init__(dataset, cache=cache, threads=threads, **kwargs)

    def new(self, dataset=None, cls=None, **kwargs):
        if dataset is not None and len(dataset) == 0:  # what is exported is fastai's own
            return TfmdDL.new(self, dataset, TfmdDL, **kwargs)
        own = {"kind": self.kind, "cache": self.cache if dataset is None else None, "threads": self.threads}
        return TfmdDL.new(self, dataset, cls, **(own | kwargs))

    def plan(self) -> ItemPlan:
        """How images are made, by the transforms that the DataLoader has now."""
        part = getattr(self.dataset, "split_idx", None)
        sizes = [step.cp_size for step in getattr(self.after_batch, "fs", ())
                 if isinstance(step, AffineCoordTfm) and step.cp_size]
        target = (sizes[0][1], sizes[0][0]) if sizes else None
        plan = plan_items(getattr(self.after_item, "fs", ()), part == 0, self.kind, target)
        # Each part has a cache folder of its own: filling one removes what it holds of other images.
        return replace(plan, form=replace(plan.form, meta=plan.form.meta | {"part": part}))

    def create_batches(self, samps: Iterable[int]):
        """Turns fastai's indices into batches: TensorImage uint8, (N, 3, H, W), and targets."""
        plan, sources = self.plan(), self.sources()
        rng = np.random.default_rng(self.rng.getrandbits(64))
        kept = self.cache.pixels(plan.form) if self.cache is not None else None
        read = name_unreadable(kept.read if kept is not None else plan.form.load)
        by_item = bool(plan.rest) or not all(map(is_noop, getattr(self.before_batch, "fs", ())))
        if by_item and not self._announced:
            self._announced = True
            names = ", ".join(map(step_name, plan.rest)) or "transforms before the batch"
            print(f"busfast: {names}: image by image, as fastai runs it")
        drawn: deque = deque()

        def jobs() -> Iterator[tuple[list[int], np.ndarray | None]]:
            for indices in chunked(samps, self.bs, self.drop_last):
                drawn.append(indices)
                yield indices, rng.random((len(indices), plan.random.numbers)) if plan.random else None

        def make(job) -> Any:
            indices, numbers = job
            images = [read(sources[index]) for index in indices]
            if plan.random:
                images = [plan.random.apply(image, own) for image, own in zip(images, numbers, strict=True)]
            return images if by_item else collate(images)

        threads = self.threads or cores()
        with ThreadPoolExecutor(threads) as pool:
            for made in map_ahead(pool, make, jobs(), threads + 1):
                self.lap("waiting")
                self.indices = drawn.popleft()
                if by_item:
                    yield self._finish_items(made, self.indices, plan.rest)
                    continue
                pixels = send(made, self.device).permute(0, 3, 1, 2)
                self.lap("to_device")
                if self.kind is not PILImageBW:
                    pixels = pixels.expand(-1, 3, -1, -1)
                rows = send(torch.tensor(self.indices), self.device)
                yield self.kind._tensor_cls(pixels), *self.targets(rows)

    def sources(self) -> list:
        """What each image is opened from."""
        if self._sources is None:
            tl = self.dataset.tls[0]
            self._sources = [source_of(tl, index) for index in range(len(self.dataset))]
        return self._sources

    def _finish_items(self, images: Sequence, indices: Sequence[int], rest: Sequence[Transform]) -> tuple:
        """A batch as fastai makes it: the transforms that are left of each image and its targets, collate."""
        steps = (*rest, *(step for step in self.after_item.fs if isinstance(step, ToTensor)))
        items = []
        for pixels, index in zip(images, indices, strict=True):
            gray = pixels.shape[2] == 1
            shown = pixels[..., 0] if gray and self.kind is PILImageBW else pixels.repeat(3, 2) if gray else pixels
            item = (self.kind.create(np.ascontiguousarray(shown)), *(tl[index] for tl in self.dataset.tls[1:]))
            for step in steps:
                item = step(item, split_idx=self.after_item.split_idx)
            items.append(item)
        return self.do_batch(items)

    def prepare(self):
        """Decodes the images now, if there is a cache to keep their pixels in; returns the pixels."""
        return self.cache.pixels(self.plan().form) if self.cache is not None else None


def source_of(tl: Any, index: int) -> Any:
    """What the image of an item is opened from: the item, through the transforms before the one that opens it."""
    item = L.__getitem__(tl, index)
    for step in tl.tfms.fs[:-1]:
        item = step(item)
    return os.fspath(item) if isinstance(item, os.PathLike) else item


def why_not(dl: Any) -> str:
    """Why a DataLoader cannot be accelerated; "" if it can."""
    if isinstance(dl, ImageDL):
        return "it is busfast's own"
    if type(dl) is not TfmdDL or not isinstance(dl.dataset, Datasets):
        return f"it is a {type(dl).__name__} of {type(getattr(dl, 'dataset', None)).__name__}"
    if not len(dl.dataset):
        return "it has no items"
    if dl.bs is None:
        return "it has no batch size"
    if dl.n_inp != 1:
        return f"it has {dl.n_inp} inputs, not one"
    steps = [step for step in dl.dataset.tls[0].tfms.fs if not is_noop(step)]
    if not steps or steps[-1].name != f"{PILBase.__name__}.create":
        return f"its images are not opened by fastai's PILImage.create, but by {steps[-1].name if steps else 'nothing'}"
    image, *targets = dl.dataset[0]
    if type(image) not in (PILImage, PILImageBW):
        return f"its input is a {type(image).__name__}"
    for target in targets:
        if isinstance(target, Image.Image | TensorImageBase | TensorPoint):
            return f"its target is a {type(target).__name__}, which moves with the image"
    return ""


def accelerate_dls(dls: DataLoaders, *, cache: str = "auto", threads: int = 0) -> DataLoaders:
    """Makes fastai image DataLoaders fast; prints in one line why, if it cannot, and leaves them as they are.

    Validation has fastai's own pixels. Training draws from fastai's own distributions: Resize and RandomResizedCrop are
    computed on the kept image, `aug_transforms` in one pass on a CPU, every other transform as the user wrote it.

    Args:
        dls: DataLoaders of a DataBlock, or of ImageDataLoaders; they are changed.
        cache: see `make_dls`.
        threads: that read, decode and crop; 0: one per core.

    Returns:
        The same object.
    """
    if all(isinstance(dl, AcceleratedDL) for dl in dls.loaders):
        return dls
    reasons = [why_not(dl) for dl in dls.loaders]
    if any(reasons):
        print(f"busfast: left to fastai: {next(filter(None, reasons))}")
        return dls
    loaders = []
    for dl in dls.loaders:
        kind = type(dl.dataset[0][0])
        made = TfmdDL.new(dl, None, AcceleratedDL, kind=kind, threads=threads)
        paths = made.sources()
        if cache != "off" and all(isinstance(path, str) and os.path.isfile(path) for path in paths):
            made.cache = Cache(cache, os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths]),
                               paths, threads)
        loaders.append(made)
    dls.loaders = loaders
    loaders[0].prepare()  # now, not within the first batch
    return dls
