"""Decision curve: what calling an image positive is worth, against calling all of them, or none."""

import numpy as np
import pandas as pd

from busfast.results.bootstrap import draw_weights
from busfast.results.intervals import MIN_GROUPS
from busfast.results.scores import rate_groups

THRESHOLDS = np.arange(1, 100) / 100
DRAWS = 200


def decision_curve(positive: np.ndarray, values: np.ndarray, groups: np.ndarray) -> pd.DataFrame:
    """Computes the net benefit over thresholds: true positives less false ones, as shares of all images, where a false
    one counts threshold / (1 - threshold), which is what whoever acts from that probability on accepts.

    Args:
        positive: bool, (n,), which images are of the positive class.
        values: (n,), their calibrated probabilities of it.
        groups: (n,), the group (patient) of each image; the band draws groups again.

    Returns:
        A row per threshold: threshold, model, low, high (95%; NaN of fewer than three groups with or without the
        positive class), treat_all, treat_none. Empty if all images, or none, are positive.

    Source:
        Vickers and Elkin 2006, "Decision curve analysis: a novel method for evaluating prediction models".
    """
    columns = ["threshold", "model", "low", "high", "treat_all", "treat_none"]
    if not 0 < positive.sum() < len(positive):
        return pd.DataFrame(columns=columns)
    odds = THRESHOLDS / (1 - THRESHOLDS)
    worth = np.where(positive[:, None], 1.0, -odds)  # of calling an image positive
    gained = worth * (values[:, None] >= THRESHOLDS)
    low = high = np.nan
    if rate_groups(positive, positive, groups)["auc"] >= MIN_GROUPS:
        # Within positive and other patients, so that the prevalence, on which all three curves depend, hardly changes.
        drawn = np.concatenate([weights @ gained / weights.sum(1, keepdims=True)
                                for weights in draw_weights(groups, positive, DRAWS)])
        low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    return pd.DataFrame({"threshold": THRESHOLDS, "model": gained.mean(0), "low": low, "high": high,
                         "treat_all": worth.mean(0), "treat_none": 0.0})[columns]
