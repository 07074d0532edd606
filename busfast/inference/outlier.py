"""Scores how unlike the training images an image is, by the features of the model's first stages."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from PIL import Image

DIRECTIONS, QUANTILE = 64, 0.99
COARSE = (0.5, 0.7)  # resolution, of the model's input, of the copies that the score is fitted to
COLORFUL = 20  # of 255: mean range of a pixel's channels; the tint of an ultrasound has 5 to 15, photographs over 25


@dataclass(frozen=True)
class Outlier:
    """A normal distribution of the training images' features, narrow in most directions.

    It stores averages over all images, never the features of one; float32.

    Source:
        Tipping and Bishop 1999, "Probabilistic principal component analysis"; as a score of outliers Lee et al. 2018
        (arXiv 1807.03888).
    """

    mean: np.ndarray  # (d,)
    directions: np.ndarray  # (k, d), orthonormal, along which the features vary most
    variances: np.ndarray  # (k,), along each of them
    rest: np.ndarray  # (1,), the variance along any other direction
    threshold: np.ndarray  # (1,), the quantile `QUANTILE` of the validation images' distances

    def __post_init__(self):
        k, d = self.directions.shape if self.directions.ndim == 2 else (-1, -1)
        shapes = {"mean": (d,), "variances": (k,), "rest": (1,), "threshold": (1,), "directions": (k, d)}
        for name, value in asdict(self).items():
            if value.shape != shapes[name] or value.dtype != np.float32 or not np.isfinite(value).all():
                raise ValueError(f"{name} must be finite float32 of the shape {shapes[name]}")
        if min(self.variances.min(initial=1), *self.rest, *self.threshold) <= 0:
            raise ValueError("a variance or the threshold of the outlier score is not above 0")

    def score(self, features: np.ndarray) -> np.ndarray:
        """Returns the distance of features, (n, d), from the training images, divided by the threshold."""
        return self._distance(features) / self.threshold

    def _distance(self, features: np.ndarray) -> np.ndarray:
        centered = np.asarray(features, float) - self.mean
        along = (centered @ self.directions.T.astype(float)) ** 2
        others = np.maximum((centered**2).sum(1) - along.sum(1), 0)
        return np.sqrt((along / self.variances).sum(1) + others / self.rest)


def is_colorful(images: Sequence[np.ndarray]) -> bool:
    """Returns whether most of some images, uint8 (H, W, 1 or 3), have color that is more than a tint."""
    return bool(np.median([np.ptp(image, axis=2).mean() for image in images]) > COLORFUL)


def coarsen(image: np.ndarray) -> np.ndarray:
    """Returns an image, uint8 (H, W, 1 or 3), as a file of fewer pixels would give it: the size says nothing of what is
    on it. Which of `COARSE` it gets depends on its pixels only."""
    small = Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image)
    share, size = COARSE[int(image.sum()) % len(COARSE)], small.size
    small = small.resize([max(1, round(side * share)) for side in size], Image.Resampling.BILINEAR)
    return np.asarray(small.resize(size, Image.Resampling.BILINEAR)).reshape(image.shape)


def fit_outlier(train: np.ndarray, valid: np.ndarray) -> Outlier:
    """Fits the distribution to the features of training images, (n, d), the threshold to validation images', (m, d)."""
    train = np.asarray(train, float)
    mean = train.mean(0)
    values, vectors = np.linalg.eigh(np.cov(train.T))
    k = max(1, min(DIRECTIONS, (len(train) - 1) // 4, len(mean) - 1))
    # A constant feature would make any change of it infinitely unlikely.
    floor = max(1e-6 * values.max(), 1e-12)
    fitted = {"mean": mean, "directions": vectors[:, :-k - 1:-1].T, "variances": values[:-k - 1:-1].clip(floor),
              "rest": [max(values[:-k].mean(), floor)]}
    fitted = {name: np.ascontiguousarray(value, np.float32) for name, value in fitted.items()}
    unit = Outlier(**fitted, threshold=np.ones(1, np.float32))
    threshold = np.quantile(unit.score(valid), [QUANTILE]).clip(1e-6)  # 0 if all images are the same
    return Outlier(**fitted, threshold=threshold.astype(np.float32))
