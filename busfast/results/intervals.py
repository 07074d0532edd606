"""Intervals by patients, not images: the images of a patient are not independent.

Each score is computed again without each patient in turn, which says how much it depends on who happened to be there;
the interval is symmetric on the logit scale. Nothing is drawn. benchmarks/coverage.py measures how often the intervals
hold the truth.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import expit, logit

LEVEL = 0.95
MIN_GROUPS = 3  # groups of the rarest class that a score needs; of fewer, the spread between patients says nothing
BLOCKS = 1000  # more groups than this are left out in blocks: bounds the time
CELLS = 4_000_000  # images times weightings in one batch: bounds the memory
RANGES = {"mcc": (-1.0, 1.0), "brier": (0.0, 2.0)}  # of scores that are not between 0 and 1

Measure = Callable[[np.ndarray], dict[str, np.ndarray]]  # weights, (b, n) -> values, (b,), of each score by its name
Scored = tuple[pd.DataFrame, pd.DataFrame]  # what `intervals` and `leave_out` return


def intervals(measure: Measure, groups: np.ndarray, fewest: Mapping[str, int] | None = None,
              with_intervals: bool = True) -> pd.DataFrame:
    """Computes scores with 95% intervals.

    Args:
        measure: maps weights, (b, n), to the values, (b,), of each score by its name.
        groups: (n,), the group (patient) of each image.
        fewest: score -> number of groups that the rarest class it needs has; others are of all groups.
        with_intervals: otherwise only the estimates are computed.

    Returns:
        A row per score, indexed by its name: estimate, low, high (NaN where the score is undefined, of fewer than
        three groups of a class that it needs, or undefined without one of the groups).
    """
    groups = np.asarray(groups)
    if not with_intervals:
        return pd.DataFrame({"estimate": _estimate(measure, len(groups)), "low": np.nan, "high": np.nan})
    return jackknife(measure, groups, fewest or {})[0]


def jackknife(measure: Measure, groups: np.ndarray, fewest: Mapping[str, int]) -> Scored:
    """Computes scores with 95% intervals, as `intervals` does, and what `leave_out` returns, for `differences`."""
    left_out = leave_out(measure, groups)
    return bound(_estimate(measure, len(groups)), left_out, groups, fewest), left_out


def _estimate(measure: Measure, count: int) -> pd.Series:
    return pd.Series({name: values[0] for name, values in measure(np.ones((1, count))).items()}, dtype=float)


def leave_out(measure: Measure, groups: np.ndarray) -> pd.DataFrame:
    """Returns the values of each score, in columns, without each group in turn; of more than 1,000 groups, without each
    of 1,000 blocks of them, put together at random (always the same)."""
    return pd.concat([pd.DataFrame(measure(weights)) for weights in _weights(np.asarray(groups))], ignore_index=True)


def _weights(groups: np.ndarray) -> Iterator[np.ndarray]:
    codes, names = pd.factorize(groups)
    blocks = np.random.default_rng(0).permutation(len(names))[codes] % BLOCKS
    numbers, rows = np.arange(min(len(names), BLOCKS)), max(1, CELLS // len(codes))
    for start in range(0, len(numbers), rows):
        kept = (blocks != numbers[start:start + rows, None]) | (len(names) == 1)  # of no images there are no scores
        yield kept.astype(float)


def left_out_variance(left_out: pd.DataFrame) -> pd.Series:
    """Returns the jackknife's variance of each score; `left_out`: see `leave_out`."""
    blocks = len(left_out)
    return (blocks - 1) / blocks * ((left_out - left_out.mean()) ** 2).sum(skipna=False)


def bound(estimate: pd.Series, left_out: pd.DataFrame, groups: np.ndarray, fewest: Mapping[str, int]) -> pd.DataFrame:
    """Returns estimates with intervals; `left_out`: see `leave_out`, the others: see `intervals`."""
    total, variance = len(set(groups)), left_out_variance(left_out)
    found = {name: _bound(value, variance[name], fewest.get(name, total), total, *RANGES.get(name, (0.0, 1.0)))
             for name, value in estimate.items()}
    low, high = np.array(list(found.values())).T
    return pd.DataFrame({"estimate": estimate, "low": low, "high": high})


def _bound(value: float, variance: float, count: int, total: int, least: float, most: float) -> tuple[float, float]:
    """The interval of a value between `least` and `most` that rests on `count` of `total` groups."""
    if count < MIN_GROUPS or np.isnan(value) or np.isnan(variance):
        return np.nan, np.nan
    width = most - least
    share, t = min(1.0, max(0.0, (value - least) / width)), stats.t.ppf((1 + LEVEL) / 2, count - 1)
    if min(share, 1 - share) < 1e-12:  # nothing varies: Wilson 1927 (for all or none), with t in the place of z
        edge = t**2 / (count + t**2)
        low, high = (0.0, edge) if share < 0.5 else (1 - edge, 1.0)
    else:
        spread = share * (1 - share)
        # Few errors vary little by luck; a share of twice as many independent patients would vary at least this much.
        deviation = np.sqrt(max(variance / width**2, spread / (2 * total))) / spread
        low, high = expit(logit(share) + np.array([-t, t]) * deviation)
    return least + width * low, least + width * high


def differences(first: Scored, second: Scored, paired: bool) -> pd.DataFrame:
    """Computes second - first for each score, with 95% intervals.

    Args:
        first, second: what is scored, as `jackknife` returns it.
        paired: whether both have the same images in the same order, so that what they share cancels.

    Returns:
        A row per score, indexed by its name: value_a, value_b, difference, low, high.

    Source:
        Zou and Donner 2008, "Construction of confidence limits about effect measures: a general approach" (MOVER).
    """
    (a, left_a), (b, left_b) = first, second
    return subtract(a, b, left_a.corrwith(left_b).fillna(0).clip(-1, 1) if paired else pd.Series(0.0, a.index))


def subtract(a: pd.DataFrame, b: pd.DataFrame, alike: pd.Series) -> pd.DataFrame:
    """Returns b - a as `differences` does, of tables with estimate, low and high; `alike`: correlation of each row."""
    difference = b["estimate"] - a["estimate"]

    def distance(of_a: pd.Series, of_b: pd.Series) -> pd.Series:
        return (of_a**2 + of_b**2 - 2 * alike * of_a * of_b).clip(lower=0) ** 0.5

    return pd.DataFrame({"value_a": a["estimate"], "value_b": b["estimate"], "difference": difference,
                         "low": difference - distance(a["high"] - a["estimate"], b["estimate"] - b["low"]),
                         "high": difference + distance(a["estimate"] - a["low"], b["high"] - b["estimate"])})
