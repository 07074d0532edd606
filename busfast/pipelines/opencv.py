"""OpenCV, which warps and looks up pixels on a CPU in a fraction of torch's time; threads take an image each."""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import numpy as np
import torch

INSTALL = "pip install opencv-python-headless"


@functools.cache
def opencv() -> ModuleType | None:
    """Returns OpenCV, set to one thread; None if it is not installed."""
    try:
        import cv2
    except (ImportError, OSError):
        print(f"Without OpenCV, batches are augmented on the CPU with torch, which is much slower: {INSTALL}",
              flush=True)
        return None
    cv2.setNumThreads(1)
    return cv2


def make_each(make: Callable[[int], None], count: int) -> None:
    """Calls a function with 0 to `count` - 1, in as many threads as torch computes with."""
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(make, range(count)))


def pixel_matrix(size: tuple[int, int], aligned: bool = False) -> np.ndarray:
    """Returns the matrix from coordinates in -1 to 1 to pixels of an image of that height and width: float64, (3, 3);
    `aligned`: 1 is the middle of the last pixel, not its edge."""
    height, width = size
    scale = [(length - aligned) / 2 for length in (width, height)]
    return np.array([[scale[0], 0, (width - 1) / 2], [0, scale[1], (height - 1) / 2], [0, 0, 1]])
