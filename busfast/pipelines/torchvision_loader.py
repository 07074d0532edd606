"""Decodes and resizes images with Pillow, in threads (it releases the GIL): runs everywhere, and is the reference."""

from collections.abc import Iterable, Iterator
from functools import partial

import torch

from busfast.data.images import load_pixels
from busfast.pipelines.augment import collate
from busfast.pipelines.image import ImagePipeline
from busfast.pipelines.prefetch import name_unreadable, read_batches
from busfast.processes import cores


class TorchvisionLoader:
    """Decodes batches in threads, a few ahead of the consumer; arguments as those of `DaliLoader`."""

    def __init__(self, pipeline: ImagePipeline, bs: int, device: torch.device, threads: int = 0, exact: bool = True):
        self.threads = threads or cores()
        size, resize, channels = pipeline.fit
        self.read = name_unreadable(partial(load_pixels, size=size, resize=resize, channels=channels, exact=exact))

    def batches(self, sources: Iterable[list]) -> Iterator[torch.Tensor]:
        """Returns resized pixels, uint8 (N, height, width, 1 or 3), of batches of paths, images, arrays or bytes."""
        return map(collate, read_batches(self.read, sources, self.threads))
