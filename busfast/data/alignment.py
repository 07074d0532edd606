"""Aligns pairs of thumbnails by shift and scale, and measures how similar they are then.

Source: local contrast after Jarrett et al. 2009 (doi 10.1109/ICCV.2009.5459469); alignment after Lucas and Kanade 1981,
forward additive as in Baker and Matthews 2004 (doi 10.1023/B:VISI.0000011205.11775.fd).
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from scipy.ndimage import gaussian_filter

from busfast.processes import cores
from busfast.progress import progress

BATCH = 256  # pairs at a time: the data of one thread fits a processor's cache
OVERLAP = 0.5  # share of the area that two images must have in common to be compared
STEPS = ((2.0, 4.0, 4), (1.0, 3.0, 3), (0.5, 2.0, 2))  # sigma of blur and surround in pixels, iterations; coarse first
FINE = (0.5, 2.0)  # sigma of blur and surround in pixels of the full thumbnail, for the similarity


def similarities(thumbnails: np.ndarray, common: np.ndarray, a: np.ndarray, b: np.ndarray, mirrored: np.ndarray,
                 threads: int | None = None) -> np.ndarray:
    """Returns float32 (P,): correlation, -1 to 1, of the fine local contrast of the pairs `thumbnails[a]`,
    `thumbnails[b]`, uint8 (N, S, S). They are aligned at half size, b mirrored first where `mirrored` says so, and
    `common`, float32 (S, S), is subtracted; 0: the overlap is too small.
    """
    def score(start: int) -> np.ndarray:
        batch = slice(start, start + BATCH)
        flip = mirrored[batch, None, None]
        fixed, moving = thumbnails[a[batch]], thumbnails[b[batch]]
        moving = np.where(flip, moving[:, :, ::-1], moving)
        transform = align(halve(fixed), halve(moving))
        fixed = local_contrast(fixed, *FINE) - common
        moving, inside = warp(local_contrast(moving, *FINE) - np.where(flip, common[:, ::-1], common), transform)
        area = inside.sum(axis=(1, 2), keepdims=True)
        fixed, moving = ((part - (part * inside).sum((1, 2), keepdims=True) / np.maximum(area, 1)) * inside
                         for part in (fixed, moving))
        norm = np.sqrt((fixed * fixed).sum((1, 2)) * (moving * moving).sum((1, 2)))
        correlation = (fixed * moving).sum((1, 2)) / np.maximum(norm, 1e-6)
        return np.where(area[:, 0, 0] >= OVERLAP * common.size, correlation, 0)

    starts = range(0, len(a), BATCH)
    with ThreadPoolExecutor(threads or cores()) as pool:
        scores = progress(pool.map(score, starts), "comparing images (batches)", len(starts))
        return np.concatenate([np.empty(0, np.float32), *scores])


def halve(thumbnails: np.ndarray) -> np.ndarray:
    """Returns thumbnails at half size, uint8 (N, S / 2, S / 2)."""
    count, side, _ = thumbnails.shape
    return thumbnails.reshape(count, side // 2, 2, side // 2, 2).mean((2, 4), dtype=np.float32).round().astype(np.uint8)


def local_contrast(thumbnails: np.ndarray, blur: float, surround: float) -> np.ndarray:
    """Returns each pixel's difference from its surround in units of the surround's deviation; float32, (N, S, S)."""
    pixels = thumbnails.astype(np.float32)
    if blur:
        pixels = gaussian_filter(pixels, (0, blur, blur))
    pixels -= gaussian_filter(pixels, (0, surround, surround))
    # + 2 gray values: a smaller deviation is JPEG noise
    return pixels / (np.sqrt(gaussian_filter(pixels * pixels, (0, surround, surround))) + 2)


def warp(images: np.ndarray, transform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Resamples images, (P, S, S); returns them, and a mask of the pixels inside the source. `transform`, (P, 4), is
    scale - 1 and shift in y, then in x, of coordinates from -1 to 1.
    """
    side = images.shape[-1]
    position = ((1 + transform[:, ::2, None]) * grid(side) + transform[:, 1::2, None] + 1) * ((side - 1) / 2)
    weight = np.maximum(0, 1 - np.abs(position[..., None] - np.arange(side, dtype=np.float32)))  # (P, 2, S, S)
    inside = ((position >= 0) & (position <= side - 1)).astype(np.float32)
    return weight[:, 0] @ images @ weight[:, 1].swapaxes(1, 2), inside[:, 0, :, None] * inside[:, 1, None, :]


def grid(side: int) -> np.ndarray:
    """Returns pixel coordinates from -1 to 1."""
    return np.linspace(-1, 1, side, dtype=np.float32)


def align(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """Finds the transform, (P, 4), that aligns `moving` with `fixed`, both (P, S, S), by Gauss-Newton steps."""
    transform = np.zeros((len(fixed), 4), np.float32)
    axis = grid(fixed.shape[-1])
    for blur, surround, iterations in STEPS:
        target, source = local_contrast(fixed, blur, surround), local_contrast(moving, blur, surround)
        for _ in range(iterations):
            image, inside = warp(source, transform)
            dy, dx = np.gradient(image, axis[1] - axis[0], axis=(1, 2))
            dy, dx = dy / (1 + transform[:, 0, None, None]), dx / (1 + transform[:, 2, None, None])
            jacobian = np.stack([dy * axis[:, None], dy, dx * axis, dx], axis=1) * inside[:, None]
            jacobian = jacobian.reshape(len(fixed), 4, -1)
            normal = jacobian @ jacobian.swapaxes(1, 2)
            # damped, so that an empty image does not divide by zero
            damping = np.trace(normal, axis1=1, axis2=2)[:, None, None] * 0.0025 + 1e-3
            normal += damping * np.eye(4, dtype=np.float32)
            residual = ((target - image) * inside).reshape(len(fixed), -1, 1)
            transform += np.linalg.solve(normal, jacobian @ residual)[..., 0]
            transform = transform.clip(-0.3, 0.3)
    return transform
