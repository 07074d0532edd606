"""busfast's own loading, as `make_dls` gives it, and the same graph as bare DALI operators without fastai."""

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

SAME = 1e-4  # how close two passes over the same pixels are


def busfast(job: Job, loader: str = "auto", cache: str = "off") -> Ready:
    """busfast's fastai DataLoaders, with freed memory kept, as `make_learner` sets it before training.

    Args:
        job: what is loaded.
        loader: as that of `make_dls`.
        cache: "off", or a folder, where the decoded pixels are put now.
    """
    keep_freed_memory()

    def epochs(augment: bool):
        dls = make_dls(job.images.parts(), job.pipeline(augment), classes=job.images.classes, bs=job.bs,
                       loader=loader, device="cpu", threads=job.workers, cache=cache)
        # Training leaves a last batch of a single image out; here every image counts.
        whole = dls.train.new(drop_last=False)
        return whole if augment else whole.new(shuffle=False), whole

    def epoch(dl):
        for pixels, _ in dl:
            yield pixels.as_subclass(torch.Tensor)

    ordered, shuffled = epochs(augment=False)
    _check_every_image_once(epoch(ordered), epoch(shuffled), len(job.images.paths))
    return ready(job, partial(epoch, epochs(augment=True)[0]), partial(epoch, ordered),
                 loader=choose_loader(loader, torch.device("cpu"))[0])


def _check_every_image_once(ordered, shuffled, wanted: int) -> None:
    """Refuses an epoch that is not a permutation of the images, by a print of each image's pixels."""
    seen, known = (_prints(batches) for batches in (shuffled, ordered))
    if not len(known) == len(seen) == wanted or not np.allclose(seen, known, atol=SAME):
        raise UserError(f"its epoch of {len(seen)} images does not hold each of the {wanted} images once")


def _prints(batches) -> np.ndarray:
    """A number for each image, sorted: its pixels against fixed random ones."""
    weights, found = None, []
    for pixels in batches:
        if weights is None:
            weights = torch.randn(pixels[0].shape, generator=torch.Generator().manual_seed(0))
        found += [float((one * weights).mean()) for one in pixels]
    return np.sort(found)


def raw_dali(job: Job, cached: bool = False) -> Ready:
    """The same graph in DALI alone, fed with files, or with fitted pixels in memory.

    Args:
        job: what is loaded.
        cached: whether fitted pixels are fed.
    """
    from busfast.pipelines.dali_loader import raw_batches

    fit, paths = job.pipeline().fit, job.images.paths
    fitted = [np.array(load_pixels(path, *fit)) for path in paths] if cached else []

    def feed(rows: np.ndarray) -> list[np.ndarray]:
        return [fitted[row] if cached else np.fromfile(paths[row], np.uint8) for row in rows]

    def order(augment: bool):
        rows = np.random.permutation(len(paths)) if augment else np.arange(len(paths))
        return [rows[start:start + job.bs] for start in range(0, len(rows), job.bs)]

    # One pass without an end, so that a DALI pipeline is built once, as busfast's loader does it.
    endless = raw_batches((feed(rows) for _ in count() for rows in order(True)), job.pipeline(), job.bs, job.workers)
    return ready(job, lambda: islice(endless, len(order(False))),
                 lambda: raw_batches(map(feed, order(False)), job.pipeline(augment=False), job.bs, job.workers))


def decoding(job: Job, fit: bool = False) -> Ready:
    """No peer, but the limit of loading without a cache: JPEGs decoded in threads as busfast does it, no more.

    Args:
        job: what is loaded.
        fit: whether they are brought to the model's size, too.
    """
    read = partial(load_pixels, size=job.size, exact=False) if fit else \
        partial(read_image, keep_gray=True, enough=MARGIN * job.size)

    def turn() -> float:
        with ThreadPoolExecutor(job.workers or None) as pool:
            start = time.perf_counter()
            for _ in pool.map(read, job.images.paths):
                pass
            return len(job.images.paths) / (time.perf_counter() - start)

    return Ready(turn, {})
