"""The job that loaders compete in, how it is measured, and the check that all deliver the same pixels."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch

from busfast.bench.arena import Ready
from busfast.bench.images import Images
from busfast.bench.machine import CPU
from busfast.data.images import load_pixels
from busfast.errors import UserError
from busfast.pipelines.devices import synchronize
from busfast.pipelines.image import ImagePipeline

COMPARED = 8  # images whose pixels are compared
MAX_DIFFERENCE = 1.0  # mean absolute difference to the reference pixels, of 255
MIN_SECONDS = 1.0  # of a measurement: a fast loader goes through several epochs
HALF = (0.5, 0.5, 0.5)  # mean and std that every loader normalizes with
SLACK = 0.05  # beyond the range of normalized pixels


@dataclass(frozen=True)
class Job:
    """Every image once an epoch, in random order, as batches of float32 (bs, 3, size, size), normalized."""

    images: Images
    size: int
    bs: int
    workers: int  # threads of busfast and DALI, worker processes of the others
    folder: str  # where contenders write
    device: torch.device = CPU  # where batches are wanted

    def pipeline(self, augment: bool = True) -> ImagePipeline:
        """Returns busfast's pipeline: squash, flip, rotate by up to 15 degrees, normalize; or without augmentation."""
        image = ImagePipeline(size=self.size, mean=HALF, std=HALF)
        return image if augment else replace(image, hflip=0, rotate=0)


def ready(job: Job, epoch: Callable[[], Iterable[torch.Tensor]],
          reference: Callable[[], Iterable[torch.Tensor]] | None = None, **facts) -> Ready:
    """Checks what a loader delivers, and returns it ready to be measured; UserError for another shape, type or content.
    `epoch` yields batches of pixels; `reference` the same without augmentation, in the table's order. None: the loader
    crops at random, so that its pixels cannot be compared."""
    def delivered() -> Iterator[torch.Tensor]:
        return (pixels.to(job.device, non_blocking=pixels.is_pinned()) for pixels in epoch())

    check_batch(job, next(delivered(), torch.empty(0)))
    if reference is not None:
        facts["apart"] = mean_difference(job, reference())
        if not facts["apart"] < MAX_DIFFERENCE:
            raise UserError(f"its pixels differ from the reference by {facts['apart']:.2f}/255, more than "
                            f"{MAX_DIFFERENCE:g}")
    return Ready(lambda: measure_speed(delivered, job.device), facts)


def measure_speed(epoch: Callable[[], Iterable[torch.Tensor]], device: torch.device = CPU) -> float:
    """Returns images a second over whole epochs, from the request of the first batch to the end of the last, when the
    device has it."""
    count, seconds = 0, 0.0
    while not count or seconds < MIN_SECONDS:
        synchronize(device)
        before, start = count, time.perf_counter()
        for pixels in epoch():
            if device.type == "cpu":
                float(pixels[0, 0, 0, 0])  # a loader that returns before its pixels are computed waits here
            count += len(pixels)
        synchronize(device)
        seconds += time.perf_counter() - start
        if count == before:
            raise UserError("it delivered no batch")
    return count / seconds


def check_batch(job: Job, pixels: torch.Tensor) -> None:
    """Refuses a batch that is not a full training batch of the job."""
    expected = (min(job.bs, len(job.images.paths)), 3, job.size, job.size)
    if tuple(pixels.shape) != expected or pixels.dtype != torch.float32:
        raise UserError(f"it delivers {tuple(pixels.shape)} of {pixels.dtype}, not {expected} of torch.float32")
    image = job.pipeline()
    low, high = -image.mean[0] / image.std[0] - SLACK, (1 - image.mean[0]) / image.std[0] + SLACK
    if not low <= float(pixels.min()) < float(pixels.max()) <= high:
        raise UserError(f"its pixels lie between {float(pixels.min()):.2f} and {float(pixels.max()):.2f}, not "
                        f"normalized to {low:.2f} to {high:.2f}")


def mean_difference(job: Job, batches: Iterable[torch.Tensor]) -> float:
    """Returns the mean absolute difference of the first images' pixels to the reference, of 255."""
    image = job.pipeline(augment=False)
    paths = job.images.paths[:COMPARED]
    pixels = torch.cat([batch.clone() for batch in islice(batches, -(-len(paths) // job.bs))])[:len(paths)]
    mean, std = (np.array(value, np.float32)[:, None, None] for value in (image.mean, image.std))
    delivered = (pixels.float().cpu().numpy() * std + mean) * 255
    expected = np.stack([np.broadcast_to(load_pixels(path, *image.fit), (job.size, job.size, 3)) for path in paths])
    return float(np.abs(delivered - expected.transpose(0, 3, 1, 2)).mean())
