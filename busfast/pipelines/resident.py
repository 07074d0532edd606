"""Decoded pixels in a GPU's memory, where they fit: a batch is then one gather."""

import math
from collections.abc import Sequence

import torch

from busfast.pipelines.augment import collate
from busfast.pipelines.cache import Pixels
from busfast.pipelines.devices import free_on_gpu
from busfast.pipelines.transfer import send
from busfast.text import counted

SHARE = 0.25  # of the GPU's free memory
CHUNK = 1024  # images that are sent at once


class Resident:
    """The pixels of some images on a GPU.

    Args:
        pixels: the decoded cache, all of one height and width.
        device: the GPU.

    Attributes:
        images: uint8, (n, height, width, 1 or 3); identical files once.
    """

    def __init__(self, pixels: Pixels, device: torch.device):
        paths = {number: path for path, number in pixels.numbers.items()}
        self._rows = {number: row for row, number in enumerate(paths)}
        self._numbers, names = pixels.numbers, list(paths.values())
        self.images = torch.empty((len(names), *pixels.shape), dtype=torch.uint8, device=device)
        for start in range(0, len(names), CHUNK):
            chunk = collate([pixels.read(path) for path in names[start:start + CHUNK]])
            self.images[start:start + CHUNK] = send(chunk, device)

    def rows(self, paths: Sequence[str]) -> torch.Tensor:
        """Returns the place of each path in `images`: int64, on the CPU."""
        return torch.tensor([self._rows[self._numbers[path]] for path in paths], dtype=torch.int64)


def make_resident(pixels: Pixels, device: torch.device | None) -> Resident | None:
    """Moves a cache to the GPU, once, and says so; None if that is no GPU, or a quarter of its free memory is too
    little."""
    if device is None or device.type != "cuda":
        return None
    if device not in pixels.resident:
        count = len(set(pixels.numbers.values()))
        need, free = count * math.prod(pixels.shape), free_on_gpu(device)
        fits = need <= SHARE * free
        print(f"pixels: {counted(count, 'image')}, {need / 1e6:,.1f} MB, " + (
              "in the GPU's memory" if fits else "from the cache on the disk: more than a quarter of the "
              f"{free / 1e6:,.0f} MB that are free on the GPU"))
        pixels.resident[device] = Resident(pixels, device) if fits else None
    return pixels.resident[device]
