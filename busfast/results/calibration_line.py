"""Calibration intercept and slope of a class: 0 and 1 if its probabilities are right on average and neither too extreme
nor too timid (Cox 1958; Van Calster et al. 2019, "Calibration: the Achilles heel of predictive analytics")."""

from functools import partial

import numpy as np
import pandas as pd
from scipy import stats
from scipy.optimize import brentq
from scipy.special import expit, logit

from busfast.results.intervals import LEVEL, MIN_GROUPS, leave_out, left_out_variance

CLIP = 1e-9  # probabilities are kept this far from 0 and 1
STEPS, STEP = 30, 1e-7  # of Newton's method at most; a smaller one ends it
# An interval that is wider says nothing, and a slope of fewer patients is that of classes that hardly overlap.
MAX_SLOPE, MIN_SLOPE_GROUPS, MAX_INTERCEPT = 1.0, 10, 10.0


def calibration_line(positive: np.ndarray, probabilities: np.ndarray, groups: np.ndarray,
                     with_intervals: bool = True) -> pd.DataFrame:
    """Computes intercept and slope of the log odds of being positive against those that the model gives.

    The intercept is that of a slope of 1: above 0 the probabilities are too low. A slope below 1: they are too extreme.

    Args:
        positive: bool, (n,).
        probabilities: (n,), of being positive.
        groups: (n,), of patients.
        with_intervals: otherwise only the estimates are computed.

    Returns:
        Rows intercept and slope, with estimate, low, high (95%); NaN where undefined (one class only; for the slope
        also classes that do not overlap), or of too few patients. The intercept's interval holds the values that a
        score test by patients does not refute, since the estimate is skewed; the slope's is a jackknife's.

    Source:
        Boos 1992, "On generalized score tests".
    """
    positive, groups = np.asarray(positive, bool), np.asarray(groups)
    log_odds = logit(np.clip(probabilities, CLIP, 1 - CLIP))
    both = 0 < positive.sum() < len(positive)
    fewest = min(len(set(groups[positive])), len(set(groups[~positive])))
    intercept, slope = np.full((2, 3), np.nan)
    if both:
        measure = partial(_slopes, positive, log_odds)
        slope[0] = measure(np.ones((1, len(groups))))["slope"][0]
        intercept[:] = _intercept(positive, log_odds, groups, fewest if with_intervals else 0)
    if with_intervals and fewest >= MIN_SLOPE_GROUPS:
        half = _quantile(fewest) * np.sqrt(left_out_variance(leave_out(measure, groups))["slope"])
        if half <= MAX_SLOPE:
            slope[1:] = slope[0] - half, slope[0] + half
    return pd.DataFrame([intercept, slope], ["intercept", "slope"], ["estimate", "low", "high"])


def _quantile(fewest: int) -> float:
    return float(stats.t.ppf((1 + LEVEL) / 2, fewest - 1))


def _intercept(positive: np.ndarray, log_odds: np.ndarray, groups: np.ndarray, fewest: int) -> list[float]:
    """Returns estimate, low and high; `fewest`: groups of the rarer class, 0 for no interval."""
    codes, names = pd.factorize(groups)

    def residuals(value: float) -> np.ndarray:
        return np.bincount(codes, positive - expit(log_odds + value), len(names))

    edge = -2 * np.log(CLIP)  # beyond it all probabilities are 0 or 1
    estimate = brentq(lambda value: residuals(value).sum(), -edge, edge)
    found = [estimate, np.nan, np.nan]
    if fewest < MIN_GROUPS:
        return found

    def excess(value: float) -> float:
        sums = residuals(value)
        return abs(sums.sum()) - _quantile(fewest) * np.sqrt(len(sums) * sums.var(ddof=1))

    ends = [estimate - MAX_INTERCEPT, estimate + MAX_INTERCEPT]
    if min(map(excess, ends)) > 0:
        found[1:] = (brentq(excess, *sorted((estimate, end))) for end in ends)
    return found


def _slopes(positive: np.ndarray, log_odds: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """The maximum-likelihood slope for each weighting of the images, (b, n): NaN if none is the most likely."""
    center, spread = log_odds.mean(), log_odds.std()
    if spread == 0:
        return {"slope": np.full(len(weights), np.nan)}
    x = (log_odds - center) / spread
    start, step = np.zeros((2, 1)), np.zeros(1)
    with np.errstate(all="ignore"):
        for rows in (weights.mean(0, keepdims=True), weights):  # all begin where their mean ends
            a, b = np.repeat(start, len(rows), axis=1)
            for _ in range(STEPS):
                p = expit(a[:, None] + b[:, None] * x)
                residual, curve = rows * (positive - p), rows * p * (1 - p)
                (one, two), (aa, ab, bb) = (residual.sum(1), residual @ x), (curve.sum(1), curve @ x, curve @ (x * x))
                determinant = aa * bb - ab**2
                up, along = (bb * one - ab * two) / determinant, (aa * two - ab * one) / determinant
                a, b, step = a + up, b + along, np.abs(up) + np.abs(along)
                if not (step > STEP).any():
                    break
            start = np.stack([a, b])
    return {"slope": np.where(step <= STEP, b / spread, np.nan)}
