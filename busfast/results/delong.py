"""DeLong's interval of an AUC, by patients: what reviewers know, beside the intervals of `intervals.py`."""

import numpy as np
import pandas as pd
from scipy.stats import norm, rankdata

from busfast.results.intervals import LEVEL, MIN_GROUPS
from busfast.results.scores import rate_groups


def delong(positive: np.ndarray, values: np.ndarray, groups: np.ndarray) -> tuple[float, float, float]:
    """Computes an AUC with DeLong's 95% interval, as Obuchowski extended it to several images of a patient.

    With one image a patient it is DeLong's own. Symmetric, and cut at 0 and 1; too short near 1 or with few patients
    (benchmarks/coverage.py).

    Args:
        positive: bool, (n,), which images are of the class.
        values: (n,), their probabilities of it.
        groups: (n,), the group (patient) of each image.

    Returns:
        Estimate, low and high; NaN where there is no AUC, or fewer than three groups with or without the class.

    Source:
        DeLong et al. 1988; by ranks, in n log n, as Sun and Xu 2014, "Fast implementation of DeLong's algorithm";
        by patients: Obuchowski 1997, "Nonparametric analysis of clustered ROC curve data".
    """
    count, others = int(positive.sum()), int((~positive).sum())
    if not count or not others:
        return np.nan, np.nan, np.nan
    ranks = rankdata(values)
    shares = np.empty(len(values))  # of the images of the other side that each is on the right side of; ties: half
    shares[positive] = (ranks[positive] - rankdata(values[positive])) / others
    shares[~positive] = 1 - (ranks[~positive] - rankdata(values[~positive])) / count
    auc = float(shares[positive].mean())
    if rate_groups(positive, positive, groups)["auc"] < MIN_GROUPS:
        return auc, np.nan, np.nan
    codes = pd.factorize(groups)[0]
    sums = np.stack([np.bincount(codes, (shares - auc) * of) for of in (positive, ~positive)])
    holders = [len(set(codes[of])) for of in (positive, ~positive)]
    sizes = np.array([count, others])
    weights = np.array([k / (k - 1) for k in holders])
    total = sums.shape[1]
    variance = (weights * (sums**2).sum(1) / sizes**2).sum() \
        + 2 * total / (total - 1) * (sums[0] * sums[1]).sum() / (count * others)
    half = norm.ppf((1 + LEVEL) / 2) * np.sqrt(max(variance, 0))
    return auc, max(0.0, auc - half), min(1.0, auc + half)
