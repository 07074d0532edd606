"""Carries an image pipeline out with torchvision on Pillow images, in threads (Pillow decodes outside the lock)."""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from busfast.data.images import fit_image, read_image
from busfast.pipelines.image import ImagePipeline, Request

AHEAD = 2  # batches being decoded while the model works on one


class TorchvisionLoader:
    """Decodes batches in threads, a few ahead of the consumer.

    Args:
        pipeline: what to do to the images.
        bs: largest batch (unused here; DALI needs it).
        device: unused here: fastai moves the batch.
        threads: decoding threads; 0: one a core.
    """

    def __init__(self, pipeline: ImagePipeline, bs: int, device: torch.device, threads: int = 0):
        self.pipeline, self.threads = pipeline, threads or os.cpu_count()

    def batches(self, requests: Iterable[Request]) -> Iterator[torch.Tensor]:
        """Yields float32 (N, 3, size, size), normalised, channels last in memory, in the order of `requests`."""
        waiting: deque = deque()
        with ThreadPoolExecutor(self.threads) as pool:
            try:
                for one in requests:
                    waiting.append([pool.submit(self._image, *item)
                                    for item in zip(one.images, one.hflip, one.vflip, one.angle, strict=True)])
                    if len(waiting) > AHEAD:
                        yield self._batch(waiting.popleft())
                while waiting:
                    yield self._batch(waiting.popleft())
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _image(self, source, hflip: bool, vflip: bool, angle: float) -> np.ndarray:
        image = fit_image(read_image(source), self.pipeline.size, self.pipeline.resize, self.pipeline.channels)
        if hflip:
            image = F.hflip(image)
        if vflip:
            image = F.vflip(image)
        if angle:
            image = F.rotate(image, float(angle), InterpolationMode.BILINEAR)
        return np.asarray(image)

    def _batch(self, futures: list) -> torch.Tensor:
        pixels = torch.from_numpy(np.stack([future.result() for future in futures])).float()
        mean, std = (torch.tensor(value) * 255 for value in (self.pipeline.mean, self.pipeline.std))
        return pixels.sub_(mean).div_(std).permute(0, 3, 1, 2)
