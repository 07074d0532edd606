"""busfast's own loading, as `make_dls` returns it, and the same graph of DALI operators without fastai."""

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count, islice

import numpy as np
import torch

from busfast.bench.arena import Ready
from busfast.bench.job import Job, ready
from busfast.data.images import MARGIN, load_pixels, read_image
from busfast.errors import UserError
from busfast.models.memory import keep_freed_memory
from busfast.pipelines.backends import choose_loader
from busfast.pipelines.dataloaders import make_dls

TOLERANCE = 1e-4  # of two passes over the same pixels


def busfast(job: Job, loader: str = "auto", cache: str = "off") -> Ready:
    """busfast's fastai DataLoaders, keeping freed memory, as `make_learner` sets it. A `cache` folder is filled now."""
    keep_freed_memory()

    def loaders(augment: bool):
        dls = make_dls(job.images.parts(), job.pipeline(augment), classes=job.images.classes, bs=job.bs,
                       loader=loader, device=job.device.type, threads=job.workers, cache=cache)
        # Training drops a last batch of a single image; here every image counts.
        shuffled = dls.train.new(drop_last=False)
        return shuffled if augment else shuffled.new(shuffle=False), shuffled

    def epoch(dl):
        for pixels, _ in dl:
            yield pixels.as_subclass(torch.Tensor)

    ordered, shuffled = loaders(augment=False)
    _check_every_image_once(epoch(ordered), epoch(shuffled), len(job.images.paths))
    return ready(job, partial(epoch, loaders(augment=True)[0]), partial(epoch, ordered),
                 loader=choose_loader(loader, job.device)[0])


def _check_every_image_once(ordered, shuffled, count: int) -> None:
    """Refuses an epoch that is not a permutation of the images, by a checksum of each image's pixels."""
    delivered, expected = (_checksums(batches) for batches in (shuffled, ordered))
    if not len(expected) == len(delivered) == count or not np.allclose(delivered, expected, atol=TOLERANCE):
        raise UserError(f"its epoch of {len(delivered)} images does not contain each of the {count} images once")


def _checksums(batches) -> np.ndarray:
    """A number for each image, sorted: the mean product of its pixels and fixed random weights."""
    weights, checksums = None, []
    for pixels in batches:
        if weights is None:
            weights = torch.randn(pixels[0].shape, generator=torch.Generator().manual_seed(0)).to(pixels.device)
        checksums += (pixels * weights).mean((1, 2, 3)).tolist()
    return np.sort(checksums)


def raw_dali(job: Job, cached: bool = False) -> Ready:
    """The same graph in DALI without fastai, fed with files or, if `cached`, with resized pixels in memory."""
    from busfast.pipelines.dali_loader import raw_batches

    fit, paths = job.pipeline().fit, job.images.paths
    resized = [np.array(load_pixels(path, *fit)) for path in paths] if cached else []

    def feed(rows: np.ndarray) -> list[np.ndarray]:
        return [resized[row] if cached else np.fromfile(paths[row], np.uint8) for row in rows]

    def batches(augment: bool):
        rows = np.random.permutation(len(paths)) if augment else np.arange(len(paths))
        return [rows[start:start + job.bs] for start in range(0, len(rows), job.bs)]

    # One endless pass, so that the DALI pipeline is built once, as in busfast's loader.
    endless = raw_batches((feed(rows) for _ in count() for rows in batches(True)), job.pipeline(), job.bs, job.workers,
                          job.device)
    return ready(job, lambda: islice(endless, len(batches(False))), lambda: raw_batches(
        map(feed, batches(False)), job.pipeline(augment=False), job.bs, job.workers, job.device))


def decode(job: Job, resize: bool = False) -> Ready:
    """The limit of loading without a cache, not a peer: JPEGs decoded (and resized) in threads as busfast does it."""
    read = partial(load_pixels, size=job.size, exact=False) if resize else \
        partial(read_image, keep_gray=True, enough=MARGIN * job.size)

    def measure() -> float:
        with ThreadPoolExecutor(job.workers or None) as pool:
            start = time.perf_counter()
            for _ in pool.map(read, job.images.paths):
                pass
            return len(job.images.paths) / (time.perf_counter() - start)

    return Ready(measure, {})
