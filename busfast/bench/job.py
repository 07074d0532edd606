"""The job that loaders compete in, how it is measured, and the check that all of them deliver the same thing."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from busfast.bench.arena import Ready
from busfast.bench.own_images import Images
from busfast.data.images import load_pixels
from busfast.errors import UserError
from busfast.pipelines.image import ImagePipeline

COMPARED = 8  # images whose pixels are compared
APART = 1.0  # of 255: how far pixels may be from the reference on average
LEAST = 1.0  # seconds that a turn lasts at least: a fast loader goes through several epochs in one turn
SLACK = 0.05  # beyond the range of normalised pixels


@dataclass(frozen=True)
class Job:
    """Every image once an epoch, in random order, as batches of float32 (bs, 3, size, size), normalised.

    Attributes:
        images: what is loaded.
        size: side of the result, pixels.
        bs: images a batch.
        workers: threads of busfast and DALI, worker processes of the others.
        folder: for what a contender writes.
    """

    images: Images
    size: int
    bs: int
    workers: int
    folder: str

    def pipeline(self, augment: bool = True) -> ImagePipeline:
        """Returns busfast's pipeline: squash, flip, rotate by up to 15 degrees, normalise; or without augmentation."""
        return ImagePipeline(size=self.size) if augment else ImagePipeline(size=self.size, hflip=0, rotate=0)


def ready(job: Job, epoch: Callable[[], Iterable[torch.Tensor]],
          plain: Callable[[], Iterable[torch.Tensor]] | None = None, **facts) -> Ready:
    """Checks what a loader delivers; returns it ready to be measured.

    Args:
        job: what it is to deliver.
        epoch: starts an epoch; yields batches of pixels.
        plain: the same pixels without augmentation and in the order of the table; None where the loader crops as it
            likes, so that its pixels cannot be those of the reference.
        facts: further facts.

    Raises:
        UserError: the batches are not what they should be.
    """
    check_batch(job, next(iter(epoch()), torch.empty(0)))
    if plain is not None:
        facts["apart"] = distance(job, plain())
        if not facts["apart"] < APART:
            raise UserError(f"its pixels are {facts['apart']:.2f}/255 away from the reference, more than {APART:g}")
    return Ready(lambda: speed(epoch), facts)


def speed(epoch: Callable[[], Iterable[torch.Tensor]]) -> float:
    """Returns images a second over whole epochs, from asking for the first batch to having the last one."""
    count, seconds = 0, 0.0
    while not count or seconds < LEAST:
        before, start = count, time.perf_counter()
        for pixels in epoch():
            float(pixels[0, 0, 0, 0])  # whoever hands over a promise keeps it here
            count += len(pixels)
        seconds += time.perf_counter() - start
        if count == before:
            raise UserError("it delivered no batch")
    return count / seconds


def check_batch(job: Job, pixels: torch.Tensor) -> None:
    """Refuses what is no full training batch of the job."""
    wanted = (min(job.bs, len(job.images.paths)), 3, job.size, job.size)
    if tuple(pixels.shape) != wanted or pixels.dtype != torch.float32:
        raise UserError(f"it delivers {tuple(pixels.shape)} of {pixels.dtype}, not {wanted} of torch.float32")
    image = job.pipeline()
    low, high = -image.mean[0] / image.std[0] - SLACK, (1 - image.mean[0]) / image.std[0] + SLACK
    if not low <= float(pixels.min()) < float(pixels.max()) <= high:
        raise UserError(f"its pixels lie between {float(pixels.min()):.2f} and {float(pixels.max()):.2f}, not "
                        f"normalised to {low:.2f} to {high:.2f}")


def distance(job: Job, batches: Iterable[torch.Tensor]) -> float:
    """Returns how far the pixels of the first images are from the reference, mean absolute difference, of 255."""
    image = job.pipeline(augment=False)
    paths = job.images.paths[:COMPARED]
    found = torch.cat([pixels.clone() for pixels in islice(batches, -(-len(paths) // job.bs))])[:len(paths)]
    mean, std = (np.array(value, np.float32)[:, None, None] for value in (image.mean, image.std))
    found = (found.float().numpy() * std + mean) * 255
    expected = np.stack([np.broadcast_to(load_pixels(path, *image.fit), (job.size, job.size, 3)) for path in paths])
    return float(np.abs(found - expected.transpose(0, 3, 1, 2)).mean())
