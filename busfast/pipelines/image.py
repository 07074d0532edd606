"""The one definition of what happens to an image; DALI and torchvision only carry it out."""

from dataclasses import dataclass

import numpy as np

MEAN = STD = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class ImagePipeline:
    """decode -> fit to size -> (training: flip, rotate) -> normalise.

    Attributes:
        size: side of the square result, pixels.
        resize, channels: see `busfast.data.images.fit_image`.
        hflip, vflip: probability of a flip in training.
        rotate: largest rotation in training, degrees, either way; corners are filled with black.
        mean, std: (x / 255 - mean) / std, a value each for R, G, B.
    """

    size: int = 224
    resize: str = "squash"
    channels: str = "rgb"
    hflip: float = 0.5
    vflip: float = 0.0
    rotate: float = 15.0
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD


@dataclass(frozen=True)
class Request:
    """What a loader is asked for: one batch of images and what to do to each.

    Attributes:
        images: paths, Pillow images, arrays or encoded bytes; N of them.
        hflip, vflip: bool, (N,).
        angle: float32, (N,), degrees, counter-clockwise.
    """

    images: list
    hflip: np.ndarray
    vflip: np.ndarray
    angle: np.ndarray


def request(pipeline: ImagePipeline, images: list, rng: np.random.Generator | None) -> Request:
    """Draws the augmentation of a batch (none without `rng`).

    It is drawn here, outside the loaders, so that it depends on neither the loader nor its threads, and a loader
    has no random state that `lr_find` or `show_batch` could disturb.
    """
    count = len(images)
    if rng is None:
        none = np.zeros(count, dtype=bool)
        return Request(images, none, none, np.zeros(count, dtype=np.float32))
    draws = rng.random((3, count))
    angle = ((draws[2] * 2 - 1) * pipeline.rotate).astype(np.float32)
    return Request(images, draws[0] < pipeline.hflip, draws[1] < pipeline.vflip, angle)
