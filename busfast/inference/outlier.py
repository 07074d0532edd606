"""Scores how unlike the training images an image is, by the features of the model's first stages."""

from dataclasses import asdict, dataclass

import numpy as np

DIRECTIONS, QUANTILE = 64, 0.99


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
