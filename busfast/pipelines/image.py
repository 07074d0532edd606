"""The image pipeline: what DALI, torchvision and the decoded cache do to an image."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np


@dataclass(frozen=True)
class ImagePipeline:
    """decode -> resize -> (training: flip, rotate) -> normalize."""

    size: int = 224  # side of the result, or its height, pixels
    resize: str = "squash"  # see `busfast.data.images.resize_image`
    channels: str = "rgb"  # see `resize_image`
    hflip: float = 0.5  # probability of a horizontal flip in training
    vflip: float = 0.0  # probability of a vertical flip in training
    rotate: float = 15.0  # largest rotation in training, degrees, in both directions; corners are black
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)  # pixels become (x / 255 - mean) / std; one value each for R, G, B
    std: tuple[float, ...] = (1.0, 1.0, 1.0)  # both belong to the weights of a model, which sets them
    width: int = 0  # of a result that is not square, pixels

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of the result."""
        return self.size, self.width or self.size

    @property
    def fit(self) -> tuple[int | tuple[int, int], str, str]:
        """What determines the pixels before augmentation: arguments of `busfast.data.images.load_pixels`."""
        return self.sides if self.width else self.size, self.resize, self.channels


@dataclass(frozen=True)
class Augmentation:
    """The augmentation of N images."""

    hflip: np.ndarray  # bool, (N,)
    vflip: np.ndarray  # bool, (N,)
    angle: np.ndarray  # float32, (N,), degrees, counter-clockwise; applied after the flips

    def __getitem__(self, images: slice) -> "Augmentation":
        """Returns the augmentation of some of the images."""
        return Augmentation(self.hflip[images], self.vflip[images], self.angle[images])

    @classmethod
    def join(cls, parts: Sequence["Augmentation"]) -> "Augmentation":
        """Returns the augmentation of the images of several parts, one after the other."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


def sample_augmentation(pipeline: ImagePipeline, count: int, rng: np.random.Generator) -> Augmentation:
    """Samples the augmentation of a batch.

    Sampled outside the loaders, so that it does not depend on the loader or its threads, and no loader has a random
    state that `lr_find` or `show_batch` could disturb.
    """
    draws = rng.random((3, count))
    angle = ((draws[2] * 2 - 1) * pipeline.rotate).astype(np.float32)
    return Augmentation(draws[0] < pipeline.hflip, draws[1] < pipeline.vflip, angle)
