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
        print(f"Without OpenCV, batches are augmented on the CPU with torch, which is much slower: {INSTALL}")
        return None
    cv2.setNumThreads(1)
    return cv2


def make_each(make: Callable[[int], None], count: int) -> None:
    """Calls a function with 0 to `count` - 1, in as many threads as torch computes with; this one is one of them."""
    left, others = iter(range(count)), min(torch.get_num_threads(), count) - 1

    def work() -> None:
        for index in left:
            make(index)

    with ThreadPoolExecutor(max(1, others)) as pool:
        futures = [pool.submit(work) for _ in range(others)]
        work()
        for future in futures:
            future.result()


def pixel_matrix(size: tuple[int, int], aligned: bool = False) -> np.ndarray:
    """Returns the matrix from coordinates in -1 to 1 to pixels of an image of that height and width: float64, (3, 3);
    `aligned`: 1 is the middle of the last pixel, not its edge."""
    height, width = size
    scale = [(length - aligned) / 2 for length in (width, height)]
    return np.array([[scale[0], 0, (width - 1) / 2], [0, scale[1], (height - 1) / 2], [0, 0, 1]])
