"""Calibrated probabilities and what they decide: temperature, thresholds and referral, all chosen on validation."""

from functools import partial

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, softmax

from busfast.results.intervals import intervals
from busfast.results.scores import divide, rate_groups, rates

LOG_RANGE = (-3.0, 3.0)  # of the temperature's logarithm: 0.05 to 20
COVERAGES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Fits the temperature of softmax(logits / temperature) by maximum likelihood.

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

    return float(np.exp(minimize_scalar(loss, bounds=LOG_RANGE, method="bounded").x))


def calibrate(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Returns calibrated probabilities, (n, k)."""
    return softmax(np.asarray(logits, float) / temperature, axis=1)


def to_probabilities(logits: np.ndarray, label_delim: str = "") -> np.ndarray:
    """Returns the probabilities of logits, (n, k), as trained: each label's own if images may have several."""
    return expit(np.asarray(logits, float)) if label_delim else calibrate(logits, 1)


def choose_threshold(positive: np.ndarray, values: np.ndarray, target: float) -> float:
    """Returns the highest threshold at which a share `target` of the positive images of validation is reached."""
    descending = np.sort(values[positive])[::-1]
    needed = int(np.ceil(target * len(descending) - 1e-9))
    return float(descending[needed - 1])


def operate(positive: np.ndarray, values: np.ndarray, threshold: float, groups: np.ndarray,
            with_intervals: bool = True) -> pd.DataFrame:
    """Computes sensitivity, specificity, ppv and npv at a threshold, with intervals; see `intervals`."""
    called = values >= threshold
    cells = np.stack([positive & called, positive & ~called, ~positive & called, ~positive & ~called], axis=1)

    def measure(weights: np.ndarray) -> dict[str, np.ndarray]:
        return rates(*(weights @ cells).T)

    groups = np.asarray(groups)
    return intervals(measure, groups, rate_groups(positive, called, groups), with_intervals)


def refer(valid: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], groups: np.ndarray,
          with_intervals: bool = True) -> pd.DataFrame:
    """Computes the error that is left if the images that the model is least sure of are referred to a human.

    Args:
        valid, test: labels, (n,), and calibrated probabilities, (n, k), of each part.
        groups, with_intervals: of the test part; see `intervals`.

    Returns:
        A row per coverage: wanted (share of the validation images that the model keeps), threshold (of the highest
        probability, chosen on the validation part), coverage (share of the test images kept), error (share of those
        that are wrong), low, high (95%).
    """
    labels, probabilities = test
    confidence, wrong = probabilities.max(1), probabilities.argmax(1) != labels
    rows = []
    for wanted in COVERAGES:
        threshold = 0.0 if wanted == 1 else float(np.quantile(valid[1].max(1), 1 - wanted))
        kept = confidence >= threshold
        fewest = {"error": len(set(np.asarray(groups)[kept]))}
        error = intervals(partial(_error, kept, wrong), groups, fewest, with_intervals).loc["error"]
        rows.append({"wanted": wanted, "threshold": threshold, "coverage": kept.mean(), "error": error["estimate"],
                     "low": error["low"], "high": error["high"]})
    return pd.DataFrame(rows)


def _error(kept: np.ndarray, wrong: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    return {"error": divide(weights @ (kept & wrong), weights @ kept)}
