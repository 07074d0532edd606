"""fastai's DataLoader whose pixels come from DALI, torchvision or the decoded cache; `after_batch` makes the batch."""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from fastai.data.core import TfmdDL
from fastai.data.load import chunked, fa_collate
from fastai.data.transforms import Normalize, ToTensor
from fastai.torch_core import TensorImage, retain_type, to_device
from fastai.vision.core import PILImage
from fasttransform import Pipeline, Transform

from busfast.pipelines.augment import collate
from busfast.pipelines.backends import LOADERS
from busfast.pipelines.batch_tfms import Augment, BatchPipeline, is_noop, make_normalize
from busfast.pipelines.cache import Cache, Pixels
from busfast.pipelines.image import ImagePipeline, sample_augmentation
from busfast.pipelines.prefetch import name_unreadable
from busfast.processes import rank_slice
from busfast.progress import map_ahead


class ImageDL(TfmdDL):
    """fastai's DataLoader over rows of a table; only the way to a batch of pixels is another one.

    Batches are TensorImage uint8, (N, 3, size, size), on the device, before `after_batch`. Item transforms beside
    ToTensor, and transforms before the batch, run image by image on the resized pixels, as fastai runs them.

    All ranks draw the same order and the same augmentation of a batch, and each makes its share of the images. A last
    batch with fewer images than there are ranks leaves some of them without any.

    Args:
        dataset: fastai Datasets whose items are rows with a column `image` (absolute path or pixels).
        image: the image pipeline.
        loader: a key of `LOADERS`.
        threads: decoding threads; 0: one per core.
        cache: the decoded cache of the images; None: they are decoded in every epoch.
        rank, world_size: this process, and how many share each batch.

    Attributes:
        indices: the rows of the last batch, of all ranks.
        own: the slice of them that this rank made.
    """

    def __init__(self, dataset=None, image: ImagePipeline | None = None, loader: str = "torchvision",
                 threads: int = 0, cache: Cache | None = None, rank: int = 0, world_size: int = 1, **kwargs):
        self.image, self.loader_name, self.threads, self.cache = image or ImagePipeline(), loader, threads, cache
        self.rank, self.world_size = rank, world_size
        self._loader: Any = None
        self._loader_bs, self._announced = 0, False
        self._targets: list | None = None
        self.indices: tuple[int, ...] = ()
        self.own = slice(None)
        # fastai's workers are processes; here threads decode.
        super().__init__(dataset, **(kwargs | {"num_workers": 0}))
        self.after_batch: Pipeline = BatchPipeline(self.after_batch)

    def new(self, dataset=None, cls=None, **kwargs):
        own = {"image": self.image, "loader": self.loader_name, "threads": self.threads,
               "cache": self.cache if dataset is None else None}
        return super().new(dataset, cls, **(own | kwargs))

    def __getstate__(self):
        return self.__dict__ | {"_loader": None, "cache": None}

    def create_batches(self, samps: Iterable[int]):
        """Turns fastai's indices into batches; only those of the training part are augmented."""
        training = getattr(self.dataset, "split_idx", None) == 0
        own = next((step for step in getattr(self.after_batch, "fs", ()) if isinstance(step, Augment)), None)
        augment = training and own is not None
        rng = np.random.default_rng(self.rng.getrandbits(64)) if augment else None
        sources = self.dataset.items["image"].tolist()
        drawn: deque = deque()  # indices and augmentation of the batches that are on their way

        def rank_sources() -> Iterator[list]:
            for indices in chunked(samps, self.bs, self.drop_last):
                drawn.append((indices, sample_augmentation(self.image, len(indices), rng) if augment else None))
                if mine := indices[rank_slice(len(indices), self.rank, self.world_size)]:
                    yield [sources[index] for index in mine]

        def to_batch(pixels: torch.Tensor) -> tuple:
            self.indices, augmentation = drawn.popleft()
            self.own = rank_slice(len(self.indices), self.rank, self.world_size)
            if augment:
                own.sampled = augmentation[self.own]
            indices = self.indices[self.own]
            if by_item:
                return self._by_item(pixels, indices)
            return TensorImage(pixels.permute(0, 3, 1, 2).expand(-1, 3, -1, -1)), *self.targets(indices)

        by_item = self._item_tfms()
        if by_item and not self._announced:
            self._announced = True
            print(f"{', '.join(by_item)}: image by image on the resized pixels, as fastai runs it", flush=True)
        cached = self.prepare()
        if cached is not None:
            batches = _read_ahead(cached, rank_sources())
        else:
            bs = math.ceil(self.bs / self.world_size)
            if self._loader is None or self._loader_bs < bs:  # the user may have changed `bs`
                self._loader, self._loader_bs = LOADERS[self.loader_name](
                    self.image, bs, self.device, self.threads, not training), bs
            batches = self._loader.batches(rank_sources())
        for pixels in batches:
            self.lap("waiting")
            pixels = pixels.to(self.device, non_blocking=True)
            self.lap("to_device")
            yield to_batch(pixels)
        if drawn:  # a last batch without an image for this rank
            yield to_batch(torch.empty((0, *self.image.sides, 3), dtype=torch.uint8, device=self.device))

    def targets(self, indices: Sequence[int]) -> list:
        """Returns the targets of some rows, each of its own type; a class is a TensorCategory, int64, (N,)."""
        if self._targets is None:
            # In chunks: 100,000 tensors of one number each would take 50 MB.
            self._targets = [(torch.cat([fa_collate([tl[index] for index in chunk])
                                         for chunk in chunked(range(len(self.dataset)), 1000)]), tl[0])
                             for tl in self.dataset.tls[1:]] if len(self.dataset) else []
        return [retain_type(target[list(indices)], kind) if isinstance(kind, torch.Tensor) else target[list(indices)]
                for target, kind in self._targets]

    def _item_tfms(self) -> list[str]:
        """The names of the user's transforms of single items."""
        steps = [step for pipeline in (self.after_item, self.before_batch) for step in getattr(pipeline, "fs", ())]
        return [step_name(step) for step in steps if not (isinstance(step, ToTensor) or is_noop(step))]

    def _by_item(self, pixels: torch.Tensor, indices: Sequence[int]) -> tuple:
        """A batch as fastai makes it: after_item of each image and its targets, before_batch, collate."""
        images = [PILImage.create(image.expand(-1, -1, 3).contiguous().numpy()) for image in pixels.cpu()]
        items = [self.after_item((image, *(tl[index] for tl in self.dataset.tls[1:])))
                 for image, index in zip(images, indices, strict=True)]
        return to_device(self.do_batch(items), self.device)

    def lap(self, phase: str) -> None:
        """Called at the end of each phase of a batch; `busfast.training.profile` measures here."""

    def prepare(self) -> Pixels | None:
        """Decodes the images now, if there is a cache to keep their pixels in; returns the pixels."""
        return self.cache.pixels(self.image) if self.cache is not None else None

    @property
    def cached_images(self) -> int:
        """Number of images, of all parts, that come out of the cache."""
        cached = self.prepare()
        return len(cached) if cached is not None else 0

    def normalize(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Sets the last batch transform, fastai's Normalize, and mean and std of `image`; other transforms stay."""
        self.image = replace(self.image, mean=tuple(mean), std=tuple(std))
        others = [step for step in self.after_batch.fs if not (isinstance(step, Normalize) or is_noop(step))]
        self.after_batch = BatchPipeline([*others, make_normalize(self.image.mean, self.image.std)])
        self.to(self.device)  # the new one, too

    def to(self, device):
        self._loader = None
        super().to(device)


def step_name(step: Transform) -> str:
    """Returns the name of a transform, or of the function that it is, without settings."""
    return step.name.partition(" -- ")[0].rpartition(".")[2]


def _read_ahead(pixels: Pixels, batches: Iterable[list[str]]) -> Iterator[torch.Tensor]:
    """Reads batches out of the cache, one ahead of the consumer: uint8, (N, size, size, 1 or 3)."""
    read = name_unreadable(pixels.read)
    with ThreadPoolExecutor(1) as pool:
        yield from map_ahead(pool, lambda paths: collate([read(path) for path in paths]), batches, 2)
