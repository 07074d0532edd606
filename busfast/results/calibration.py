"""Probabilities that mean what they say: a temperature, fitted on the validation part."""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

RANGE = (-3.0, 3.0)  # of the temperature's logarithm: 0.05 to 20


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the temperature that makes the labels most likely: probabilities are softmax(logits / temperature).

    It never changes which class is the most probable.

    Args:
        logits: (n, k), of the validation part.
        labels: int, (n,).

    Source:
        Guo et al. 2017, "On calibration of modern neural networks" (arXiv 1706.04599).
    """
    rows = np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        return -log_softmax(logits / np.exp(log_temperature), axis=1)[rows, labels].mean()

    return float(np.exp(minimize_scalar(loss, bounds=RANGE, method="bounded").x))


def calibrate(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Returns probabilities, (n, k)."""
    return softmax(np.asarray(logits, float) / temperature, axis=1)
