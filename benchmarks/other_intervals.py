"""How often other intervals than busfast's hold the truth, on the sets of coverage.py: what they were chosen from.

Makes the table "Other intervals" of docs/evaluation.md.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from common import run_study
from coverage import CLASSES, LARGE, PATIENTS, SETTINGS, by_setting, measure_of, simulate
from scipy.special import expit, logit
from scipy.stats import norm

from busfast.bench.report import Report
from busfast.progress import progress
from busfast.results.bootstrap import draw_weights
from busfast.results.intervals import LEVEL, jackknife
from busfast.results.metrics import fewest_groups

DEFAULTS = {"rounds": 200}
DRAWS = 500
EDGES = (1 - LEVEL) / 2, (1 + LEVEL) / 2
Z = norm.ppf(EDGES[1])
NONE = np.full(2, np.nan)

# Of patients counted so often, (b, g) -> a score and the variance that its linear part has, by patients: (b,), (b,).
Estimate = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def _by_patients(parts: np.ndarray, member: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Variances of sums of images' parts, (b, n); `member`: (n, g), whose image each is."""
    total = counts.sum(1)
    return (counts * (parts @ member) ** 2).sum(1) * total / (total - 1)


def share(right: np.ndarray, of: np.ndarray, member: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A share of images, (n,), `of` some; the rest: see `Estimate` and `_by_patients`."""
    weights = counts @ member.T * of
    total = weights.sum(1)
    value = weights @ right / total
    return value, _by_patients((right - value[:, None]) * of / total[:, None], member, counts)


def auc(positive: np.ndarray, values: np.ndarray, member: np.ndarray,
        counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The AUC of values, (n,); the rest: see `Estimate` and `_by_patients`."""
    above = (np.sign(values[positive, None] - values[~positive]) + 1) / 2
    weights = counts @ member.T
    own, others = weights[:, positive], weights[:, ~positive]
    count, other_count = own.sum(1), others.sum(1)
    placed, others_placed = others @ above.T / other_count[:, None], own @ above / count[:, None]
    value = (own * placed).sum(1) / count
    parts = np.empty(weights.shape)
    parts[:, positive] = (placed - value[:, None]) / count[:, None]
    parts[:, ~positive] = (others_placed - value[:, None]) / other_count[:, None]
    return value, _by_patients(parts, member, counts)


def estimates(labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray) -> dict[str, Estimate]:
    """Returns the scores that are compared, by their names in metrics.csv."""
    member, right = np.eye(groups.max() + 1)[groups], probabilities.argmax(1) == labels
    return {"auc_malignant": partial(auc, labels == 2, probabilities[:, 2], member),
            "sensitivity_malignant": partial(share, right, labels == 2, member),
            "accuracy": partial(share, right, np.ones(len(labels)), member)}


def percentiles(value: float, variance: float, draws: np.ndarray, *_) -> np.ndarray:
    """The middle of draws of patients."""
    return np.quantile(draws, EDGES)


def bca(value: float, variance: float, draws: np.ndarray, variances: np.ndarray, left_out: np.ndarray) -> np.ndarray:
    """Efron 1987, "Better bootstrap confidence intervals"."""
    below = (np.mean(draws < value) + np.mean(draws <= value)) / 2
    bend = left_out.mean() - left_out
    bend = (bend**3).sum() / (6 * (bend**2).sum() ** 1.5)
    shift = norm.ppf(below) + norm.ppf(EDGES)
    return np.quantile(draws, norm.cdf(norm.ppf(below) + shift / (1 - bend * shift)))


def studentized(value: float, variance: float, draws: np.ndarray, variances: np.ndarray, *_) -> np.ndarray:
    """Draws in units of their own deviation, on the logit scale (Davison and Hinkley 1997, section 5.2.1); draws of 0
    or 1 are infinitely far."""
    units = (logit(draws) - logit(value)) / (variances**0.5 / (draws * (1 - draws)))
    units = np.where((draws > 0) & (draws < 1), units, np.where(draws < 1, -np.inf, np.inf))
    ends = np.quantile(units, EDGES[::-1], method="closest_observation")
    return expit(logit(value) - ends * variance**0.5 / (value * (1 - value)))


def normal(value: float, variance: float, *_) -> np.ndarray:
    """Normal on the logit scale; of an AUC with one image a patient, DeLong's variance; of several, Obuchowski's."""
    return expit(logit(value) + np.array([-Z, Z]) * variance**0.5 / (value * (1 - value)))


def wilson(value: float, variance: float, *_) -> np.ndarray:
    """Wilson's, of as many independent patients as would vary as much: for shares."""
    count = value * (1 - value) / variance
    middle = (value + Z**2 / (2 * count)) / (1 + Z**2 / count)
    return middle + np.array([-Z, Z]) / (1 + Z**2 / count) * np.sqrt(variance + Z**2 / (4 * count**2))


METHODS = {"percentiles of draws": percentiles, "BCa": bca, "studentized draws, logit": studentized,
           "normal, logit": normal, "Wilson's, effective patients": wilson}
OWN = "busfast"


def bounds(labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
    """Returns the interval, (2,), of each score by each method; NaN where the method has none."""
    scores, count = estimates(labels, probabilities, groups), groups.max() + 1
    first = np.unique(groups, return_index=True)[1]
    counts = next(draw_weights(groups, labels, DRAWS))[:, first]
    own, left_out = jackknife(lambda weights: {name: of(weights[:, first])[0] for name, of in scores.items()}, groups,
                              fewest_groups(labels, probabilities.argmax(1), groups, CLASSES))
    found = {(name, OWN): row.to_numpy() for name, row in own[["low", "high"]].iterrows()}
    for name, of in scores.items():
        (value,), (variance,) = of(np.ones((1, count)))
        draws, variances = of(counts)
        given = ~np.isnan(draws)
        vary = 1e-9 < value < 1 - 1e-9 and variance > 1e-12 and given.mean() >= 0.9
        without = left_out[name].to_numpy()
        for method, bound in METHODS.items():
            found[name, method] = bound(value, variance, draws[given], variances[given], without) if vary else NONE
    return found


def run(folder: Path, rounds: int) -> Report:
    """Computes all intervals of simulated sets of each size and setting.

    Args:
        folder: unused.
        rounds: simulated sets of each size and setting.
    """
    rows = []
    for setting, values in progress(list(SETTINGS.items()), "settings"):
        labels, probabilities, *_ = simulate(np.random.default_rng(0), LARGE, *values)
        whole = measure_of(labels, probabilities)(np.ones((1, len(labels))))
        truth = {name: value for name, (value,) in whole.items()}
        for patients in PATIENTS:
            rng = np.random.default_rng(patients)
            for _ in range(rounds):
                labels, probabilities, _, groups = simulate(rng, patients, *values)
                with np.errstate(invalid="ignore", divide="ignore"):
                    found = bounds(labels, probabilities, groups)
                rows += [{"score": name, "method": method, "patients": patients, "setting": setting,
                          "held": float(low <= truth[name] <= high) if high >= low else np.nan, "width": high - low}
                         for (name, method), (low, high) in found.items()]
    return Report("How often other 95% intervals hold the truth", tabulate(pd.DataFrame(rows)),
                  ("lowest_40", "share of intervals of 40 patients that hold the truth, lowest setting"), (), [
        f"{rounds} simulated sets of each size and setting ({'; '.join(SETTINGS)}), {DRAWS} draws; a size and setting "
        "where fewer than a quarter of the sets have an interval is left out.",
        "lowest_N: of N patients, share of the intervals that hold the truth, in the setting where it is lowest; "
        "width_N: mean width."])


def tabulate(rows: pd.DataFrame) -> pd.DataFrame:
    """Makes a row for each score and method."""
    table = by_setting(rows, "method").groupby(["score", "method", "patients"], sort=False).agg(
        lowest=("held", "min"), width=("width", "mean")).unstack("patients")
    table.columns = [f"{kind}_{patients}" for kind, patients in table.columns]
    return table.reset_index().assign(name=lambda made: made["score"] + ", " + made["method"])[["name", *table.columns]]


if __name__ == "__main__":
    run_study("other_intervals", __doc__, DEFAULTS, run)
