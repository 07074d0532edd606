"""fastai's DataLoader whose pixels come from DALI, torchvision or the decoded cache; `after_batch` makes the batch."""

import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from fastai.data.core import TfmdDL
from fastai.data.load import chunked, fa_collate
from fastai.data.transforms import Normalize, ToTensor
from fastai.torch_core import TensorImage, retain_type, to_detach, to_device
from fastai.vision.core import PILImage
from fasttransform import Pipeline, Transform

from busfast.pipelines.augment import collate
from busfast.pipelines.backends import LOADERS
from busfast.pipelines.batch_tfms import Augment, BatchPipeline, is_noop, make_normalize
from busfast.pipelines.cache import Cache, Pixels
from busfast.pipelines.epoch_plan import EpochPlan, plan_epoch
from busfast.pipelines.image import ImagePipeline
from busfast.pipelines.prefetch import name_unreadable
from busfast.pipelines.resident import make_resident
from busfast.pipelines.transfer import send, send_ahead
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
        self._targets: dict[torch.device, list] = {}
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
        return self.__dict__ | {"_loader": None, "cache": None, "_targets": {}}

    def create_batches(self, samps: Iterable[int]):
        """Turns fastai's indices into batches; only those of the training part are augmented."""
        training = getattr(self.dataset, "split_idx", None) == 0
        own = next((step for step in getattr(self.after_batch, "fs", ()) if isinstance(step, Augment)), None)
        rng = np.random.default_rng(self.rng.getrandbits(64)) if training and own is not None else None
        plan = plan_epoch(samps, self.bs, self.drop_last, self.image, rng, self.device, self.rank, self.world_size)
        by_item = self._item_tfms()
        if by_item and not self._announced:
            self._announced = True
            print(f"{', '.join(by_item)}: image by image on the resized pixels, as fastai runs it")
        batches = self._pixels(plan, not training)
        for number, self.indices in enumerate(plan.batches):
            self.own, place = plan.own[number], plan.places[number]
            pixels = next(batches) if place.start < place.stop else \
                torch.empty((0, *self.image.sides, 3), dtype=torch.uint8, device=self.device)
            self.lap("to_device")
            if plan.matrices is not None:
                own.sampled = plan.matrices[place]
            if by_item:
                yield self._by_item(pixels, plan.mine(number))
            else:
                yield TensorImage(pixels.permute(0, 3, 1, 2).expand(-1, 3, -1, -1)), *self.targets(plan.rows[place])
        next(batches, None)  # the end of the loader's pass

    def _pixels(self, plan: EpochPlan, exact: bool) -> Iterator[torch.Tensor]:
        """The pixels of each batch of which this rank has an image, on the device: uint8, (N, height, width, 1 or 3).
        `exact`: as in validation."""
        sources, cached = self.dataset.items["image"].tolist(), self.prepare()
        resident = make_resident(cached, self.device) if cached is not None else None
        if resident is not None:
            rows = send(resident.rows(sources), self.device)[plan.rows]
            yield from (resident.images[rows[place]] for place in plan.places if place.stop > place.start)
            return
        feeds = ([sources[row] for row in rows] for rows in map(plan.mine, range(len(plan.batches))) if rows)
        if cached is not None:
            batches = _read_ahead(cached, feeds)
        else:
            bs = math.ceil(self.bs / self.world_size)
            if self._loader is None or self._loader_bs < bs:  # the user may have changed `bs`
                self._loader, self._loader_bs = LOADERS[self.loader_name](
                    self.image, bs, self.device, self.threads, exact), bs
            batches = self._loader.batches(feeds)
        yield from send_ahead(self._timed(batches), self.device)

    def _timed(self, batches: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        for batch in batches:
            self.lap("waiting")
            yield batch

    def targets(self, rows: torch.Tensor | Sequence[int]) -> list:
        """Returns the targets of some rows, where these are, each of its own type; a class is a TensorCategory, int64,
        (N,)."""
        rows = torch.as_tensor(rows, dtype=torch.int64)
        if rows.device not in self._targets:
            # In chunks: 100,000 tensors of one number each would take 50 MB.
            self._targets[rows.device] = [
                (send(torch.cat([fa_collate([tl[index] for index in chunk])
                                 for chunk in chunked(range(len(self.dataset)), 1000)]), rows.device), tl[0])
                for tl in self.dataset.tls[1:]] if len(self.dataset) else []
        return [retain_type(target[rows], kind) if isinstance(kind, torch.Tensor) else target[rows]
                for target, kind in self._targets[rows.device]]

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

    def to_detach(self, b: Any, cpu: bool = True, gather: bool = True) -> Any:
        """fastai's, which a Learner calls for losses and metrics; a single number stays on the device, so that the host
        does not wait for it in each batch."""
        return to_detach(b, cpu and not (isinstance(b, torch.Tensor) and b.ndim == 0), gather)

    def lap(self, phase: str) -> None:
        """Called at the end of each phase of a batch; `busfast.training.profile` measures here."""

    def prepare(self) -> Pixels | None:
        """Decodes the images now, if there is a cache to keep their pixels in, and moves them to the GPU, if there is
        one; returns the pixels."""
        pixels = self.cache.pixels(self.image) if self.cache is not None else None
        if pixels is not None:
            make_resident(pixels, self.device)
        return pixels

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
