"""The one definition of what happens to an image; DALI, torchvision and the decoded cache only carry it out."""

from dataclasses import dataclass

import numpy as np

MEAN = STD = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class ImagePipeline:
    """decode -> fit to size -> (training: flip, rotate) -> normalise.

    Attributes:
        size: side of the square result, pixels.
        resize: see `busfast.data.images.resize_image`.
        channels: see there.
        hflip: probability of a flip, left to right, in training.
        vflip: of one upside down.
        rotate: largest rotation in training, degrees, either way; corners are filled with black.
        mean: pixels become (x / 255 - mean) / std; a value each for R, G, B.
        std: see mean.
    """

    size: int = 224
    resize: str = "squash"
    channels: str = "rgb"
    hflip: float = 0.5
    vflip: float = 0.0
    rotate: float = 15.0
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD

    @property
    def fit(self) -> tuple[int, str, str]:
        """What decides the pixels before augmentation: the arguments of `busfast.data.images.load_pixels`."""
        return self.size, self.resize, self.channels


@dataclass(frozen=True)
class Augmentation:
    """The augmentation of one batch of N images.

    Attributes:
        hflip, vflip: bool, (N,).
        angle: float32, (N,), degrees, counter-clockwise; after the flips.
    """

    hflip: np.ndarray
    vflip: np.ndarray
    angle: np.ndarray

    def __getitem__(self, which: slice) -> "Augmentation":
        """Those of some of the images."""
        return Augmentation(self.hflip[which], self.vflip[which], self.angle[which])


def sample_augmentation(pipeline: ImagePipeline, count: int, rng: np.random.Generator) -> Augmentation:
    """Draws the augmentation of a batch.

    It is drawn here, outside the loaders, so that it depends on neither the loader nor its threads, and a loader
    has no random state that `lr_find` or `show_batch` could disturb.
    """
    draws = rng.random((3, count))
    angle = ((draws[2] * 2 - 1) * pipeline.rotate).astype(np.float32)
    return Augmentation(draws[0] < pipeline.hflip, draws[1] < pipeline.vflip, angle)
