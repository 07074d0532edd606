"""Lays one thumbnail on another, by shift and scale, and tells how alike they are then.

Source: local contrast after Jarrett et al. 2009 (doi 10.1109/ICCV.2009.5459469); alignment after Lucas and Kanade 1981,
forward additive as in Baker and Matthews 2004 (doi 10.1023/B:VISI.0000011205.11775.fd).
"""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from scipy.ndimage import gaussian_filter

from busfast.progress import progress

BATCH = 256  # pairs at a time: what one thread works on fits a processor's cache
OVERLAP = 0.5  # of the area; two images that share less are not called copies
STEPS = ((2.0, 4.0, 4), (1.0, 3.0, 3), (0.5, 2.0, 2))  # blur and surroundings in pixels, rounds: coarse to fine
FINE = (0.5, 2.0)  # blur and surroundings in pixels of the full thumbnail, where likeness is measured


def compare(thumbnails: np.ndarray, common: np.ndarray, a: np.ndarray, b: np.ndarray, mirrored: np.ndarray,
            threads: int | None = None) -> np.ndarray:
    """Aligns pairs of thumbnails, at half their size, and tells how alike they are then, at full size.

    Args:
        thumbnails: uint8, (N, S, S).
        common: float32, (S, S), what is taken out of the fine contrast of each.
        a, b: int, (P,), which two are compared.
        mirrored: bool, (P,), whether the second is mirrored first.
        threads: how many; all cores by default.

    Returns:
        float32, (P,): correlation of their fine local contrast where both reach, -1 to 1; 0 if that is too little.
    """
    def score(start: int) -> np.ndarray:
        chosen = slice(start, start + BATCH)
        flip = mirrored[chosen, None, None]
        fixed, moving = thumbnails[a[chosen]], thumbnails[b[chosen]]
        moving = np.where(flip, moving[:, :, ::-1], moving)
        place = align(halve(fixed), halve(moving))
        fixed = local_contrast(fixed, *FINE) - common
        moving, seen = warp(local_contrast(moving, *FINE) - np.where(flip, common[:, ::-1], common), place)
        area = seen.sum(axis=(1, 2), keepdims=True)
        fixed, moving = ((part - (part * seen).sum((1, 2), keepdims=True) / np.maximum(area, 1)) * seen
                         for part in (fixed, moving))
        spread = np.sqrt((fixed * fixed).sum((1, 2)) * (moving * moving).sum((1, 2)))
        found = (fixed * moving).sum((1, 2)) / np.maximum(spread, 1e-6)
        return np.where(area[:, 0, 0] >= OVERLAP * common.size, found, 0)

    starts = range(0, len(a), BATCH)
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        scores = progress(pool.map(score, starts), "comparing images (batches)", len(starts))
        return np.concatenate([np.empty(0, np.float32), *scores])


def halve(thumbnails: np.ndarray) -> np.ndarray:
    """Returns thumbnails of half the side, uint8 (N, S / 2, S / 2)."""
    count, side, _ = thumbnails.shape
    return np.round(thumbnails.reshape(count, side // 2, 2, side // 2, 2).mean((2, 4), dtype=np.float32)
                    ).astype(np.uint8)


def local_contrast(thumbnails: np.ndarray, blur: float, around: float) -> np.ndarray:
    """Returns how each pixel stands out of its surroundings, in units of their spread; float32, (N, S, S)."""
    pixels = thumbnails.astype(np.float32)
    if blur:
        pixels = gaussian_filter(pixels, (0, blur, blur))
    pixels -= gaussian_filter(pixels, (0, around, around))
    # 2 gray values: less spread than that is the noise of a JPEG
    return pixels / (np.sqrt(gaussian_filter(pixels * pixels, (0, around, around))) + 2)


def warp(images: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Resamples images, (P, S, S), and tells where they reach; `place`, (P, 4): scale - 1, shift, in y and x.

    Scale and shift are of an image that reaches from -1 to 1, so a place found at half the size holds at full size.
    """
    side = images.shape[-1]
    position = ((1 + place[:, ::2, None]) * grid(side) + place[:, 1::2, None] + 1) * ((side - 1) / 2)  # (P, 2, S)
    weight = np.maximum(0, 1 - np.abs(position[..., None] - np.arange(side, dtype=np.float32)))
    inside = ((position >= 0) & (position <= side - 1)).astype(np.float32)
    return weight[:, 0] @ images @ weight[:, 1].swapaxes(1, 2), inside[:, 0, :, None] * inside[:, 1, None, :]


def grid(side: int) -> np.ndarray:
    """The places of pixels from -1 to 1."""
    return np.linspace(-1, 1, side, dtype=np.float32)


def align(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """Finds the shift and scale that lay `moving` on `fixed`, both (P, S, S), by Gauss-Newton; (P, 4)."""
    place = np.zeros((len(fixed), 4), np.float32)
    axis = grid(fixed.shape[-1])
    for blur, around, rounds in STEPS:
        goal, start = local_contrast(fixed, blur, around), local_contrast(moving, blur, around)
        for _ in range(rounds):
            image, seen = warp(start, place)
            down, across = np.gradient(image, axis[1] - axis[0], axis=(1, 2))
            down, across = down / (1 + place[:, 0, None, None]), across / (1 + place[:, 2, None, None])
            slope = np.stack([down * axis[:, None], down, across * axis, across], axis=1) * seen[:, None]
            slope = slope.reshape(len(fixed), 4, -1)
            normal = slope @ slope.swapaxes(1, 2)
            # damped, so that an empty image stands still instead of dividing by zero
            damping = np.trace(normal, axis1=1, axis2=2)[:, None, None] * 0.0025 + 1e-3
            normal += damping * np.eye(4, dtype=np.float32)
            place += np.linalg.solve(normal, slope @ ((goal - image) * seen).reshape(len(fixed), -1, 1))[..., 0]
            place = place.clip(-0.3, 0.3)
    return place
