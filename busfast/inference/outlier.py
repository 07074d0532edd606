"""How unlike the training images an image is, by what the model's first stages see in it."""

from dataclasses import asdict, dataclass

import numpy as np

DIRECTIONS, QUANTILE = 64, 0.99


@dataclass(frozen=True)
class Outlier:
    """A normal distribution of the training images' features, narrow in most directions.

    It holds averages over all of them, never one image's features.

    Attributes:
        mean: float32, (d,).
        directions: float32, (k, d), orthonormal, along which the features vary most.
        variances: float32, (k,), along each of them.
        rest: float32, (1,), the variance along any other direction.
        threshold: float32, (1,), the distance that `QUANTILE` of the validation images do not exceed.

    Source:
        Tipping and Bishop 1999, "Probabilistic principal component analysis"; as a score of outliers Lee et al. 2018
        (arXiv 1807.03888).
    """

    mean: np.ndarray
    directions: np.ndarray
    variances: np.ndarray
    rest: np.ndarray
    threshold: np.ndarray

    def __post_init__(self):
        k, d = self.directions.shape if self.directions.ndim == 2 else (-1, -1)
        shapes = {"mean": (d,), "variances": (k,), "rest": (1,), "threshold": (1,), "directions": (k, d)}
        for name, value in asdict(self).items():
            if value.shape != shapes[name] or value.dtype != np.float32 or not np.isfinite(value).all():
                raise ValueError(f"{name} is no float32 of the shape {shapes[name]}, or not finite")
        if min(self.variances.min(initial=1), *self.rest, *self.threshold) <= 0:
            raise ValueError("a variance or the threshold is not above 0")

    def score(self, features: np.ndarray) -> np.ndarray:
        """Returns the distance of features, (n, d), from the training images, in thresholds: above 1 is unlike them."""
        return self._distance(features) / self.threshold

    def _distance(self, features: np.ndarray) -> np.ndarray:
        apart = np.asarray(features, float) - self.mean
        along = (apart @ self.directions.T.astype(float)) ** 2
        others = np.maximum((apart**2).sum(1) - along.sum(1), 0)
        return np.sqrt((along / self.variances).sum(1) + others / self.rest)


def fit_outlier(train: np.ndarray, valid: np.ndarray) -> Outlier:
    """Fits the distribution to training images, and the threshold to images that the model did not learn from.

    Args:
        train, valid: features, (n, d) and (m, d).
    """
    train = np.asarray(train, float)
    mean = train.mean(0)
    values, vectors = np.linalg.eigh(np.cov(train.T))
    k = max(1, min(DIRECTIONS, (len(train) - 1) // 4, len(mean) - 1))
    # A feature that never varies would make any change of it infinitely unlikely.
    floor = max(1e-6 * values.max(), 1e-12)
    known = {"mean": mean, "directions": vectors[:, :-k - 1:-1].T, "variances": values[:-k - 1:-1].clip(floor),
             "rest": [max(values[:-k].mean(), floor)]}
    known = {name: np.ascontiguousarray(value, np.float32) for name, value in known.items()}
    unit = Outlier(**known, threshold=np.ones(1, np.float32))
    threshold = np.quantile(unit.score(valid), [QUANTILE]).clip(1e-6)  # 0 where all images are alike
    return Outlier(**known, threshold=threshold.astype(np.float32))
