"""fastai's DataLoader whose batches DALI, torchvision or the decoded cache makes: paths -> normalized tensors."""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from fastai.data.core import TfmdDL
from fastai.data.load import chunked
from fastai.torch_core import TensorCategory, TensorImage
from fasttransform import Pipeline, Transform

from busfast.pipelines.augment import augment_and_normalize, collate
from busfast.pipelines.backends import LOADERS
from busfast.pipelines.cache import Cache, Pixels
from busfast.pipelines.image import ImagePipeline, sample_augmentation
from busfast.pipelines.prefetch import name_unreadable
from busfast.processes import rank_slice
from busfast.progress import map_ahead


class Normalized(Transform):
    """Undoes the normalization, for showing; batches come normalized from the loader."""

    order = 99

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]):
        self.mean, self.std = (torch.tensor(value).view(1, -1, 1, 1) for value in (mean, std))

    def decodes(self, x: TensorImage):
        return (x * self.std.to(x.device) + self.mean.to(x.device)).clamp(0, 1)


class ImageDL(TfmdDL):
    """fastai's DataLoader over rows of a table; only the way to a batch of pixels is another one.

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
        self.image, self.loader_name, self.threads, self.cache = image, loader, threads, cache
        self.rank, self.world_size = rank, world_size
        self._loader: Any = None
        self._targets: list[torch.Tensor] | None = None
        self.indices: tuple[int, ...] = ()
        self.own = slice(None)
        # fastai's workers are processes; here threads decode.
        super().__init__(dataset, **(kwargs | {"num_workers": 0}))

    def new(self, dataset=None, cls=None, **kwargs):
        own = {"image": self.image, "loader": self.loader_name, "threads": self.threads,
               "cache": self.cache if dataset is None else None}
        return super().new(dataset, cls, **(own | kwargs))

    def __getstate__(self):
        return self.__dict__ | {"_loader": None, "cache": None}

    def create_batches(self, samps: Iterable[int]):
        """Turns fastai's indices into batches; only those of the training part are augmented."""
        augment = getattr(self.dataset, "split_idx", None) == 0
        rng = np.random.default_rng(self.rng.getrandbits(64)) if augment else None
        sources = self.dataset.items["image"].tolist()
        drawn: deque = deque()  # indices and augmentation of the batches that are on their way

        def rank_sources() -> Iterator[list]:
            for indices in chunked(samps, self.bs, self.drop_last):
                drawn.append((indices, sample_augmentation(self.image, len(indices), rng) if augment else None))
                if own := indices[rank_slice(len(indices), self.rank, self.world_size)]:
                    yield [sources[index] for index in own]

        def to_batch(pixels: torch.Tensor) -> tuple:
            self.indices, augmentation = drawn.popleft()
            self.own = rank_slice(len(self.indices), self.rank, self.world_size)
            augmentation = augmentation[self.own] if augment else None
            return TensorImage(augment_and_normalize(pixels, self.image, augmentation)), *self.targets(
                self.indices[self.own])

        cached = self.prepare()
        if cached is not None:
            batches = _read_ahead(cached, rank_sources())
        else:
            if self._loader is None:
                bs = math.ceil(self.bs / self.world_size)
                self._loader = LOADERS[self.loader_name](self.image, bs, self.device, self.threads, not augment)
            batches = self._loader.batches(rank_sources())
        for pixels in batches:
            self.lap("waiting")
            pixels = pixels.to(self.device, non_blocking=True)
            self.lap("to_device")
            yield to_batch(pixels)
        if drawn:  # a last batch without an image for this rank
            yield to_batch(torch.empty((0, self.image.size, self.image.size, 3), dtype=torch.uint8, device=self.device))

    def targets(self, indices: Sequence[int]) -> list[TensorCategory]:
        """Returns the targets of some rows of the table; here one, the class: int64, (N,)."""
        if self._targets is None:
            # In chunks: 100,000 tensors of one number each would take 50 MB.
            self._targets = [torch.cat([torch.stack([tl[index] for index in chunk])
                                        for chunk in chunked(range(len(self.dataset)), 1000)])
                             for tl in self.dataset.tls[1:]]
        return [TensorCategory(target[list(indices)]) for target in self._targets]

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

    def set_image(self, image: ImagePipeline) -> None:
        """Changes the image pipeline."""
        self.image, self._loader = image, None
        self.after_batch = Pipeline([Normalized(image.mean, image.std)])

    def to(self, device):
        self._loader = None
        super().to(device)


def _read_ahead(pixels: Pixels, batches: Iterable[list[str]]) -> Iterator[torch.Tensor]:
    """Reads batches out of the cache, one ahead of the consumer: uint8, (N, size, size, 1 or 3)."""
    read = name_unreadable(pixels.read)
    with ThreadPoolExecutor(1) as pool:
        yield from map_ahead(pool, lambda paths: collate([read(path) for path in paths]), batches, 2)
