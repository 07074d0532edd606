"""An external set against the part that a run was tested on: what changed, with unpaired intervals by patients."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from busfast.results.calibration_line import calibration_line
from busfast.results.intervals import Scored, differences, jackknife, subtract
from busfast.results.predictions import arrays
from busfast.results.scores import divide, rank_scores, rate_groups
from busfast.text import counted, listed, signed

COLUMNS = ["what", "own", "external", "difference", "low", "high"]


def compare_sets(own: pd.DataFrame, external: pd.DataFrame, classes: Sequence[str], positive: str) -> pd.DataFrame:
    """Computes how scores, prevalences and calibration on an external set differ from those on a run's own part.

    Args:
        own, external: predictions, with calibrated probabilities c_CLASS.
        classes: of the model.
        positive: the class whose sensitivity and calibration are compared.

    Returns:
        Columns `COLUMNS`; low and high are the 95% interval of external - own. Rows: macro AUC (of the classes that
        both have), sensitivity of the positive class, its mean probability, its calibration intercept and slope, and
        the share of each class.
    """
    kept = [name for name in classes if (own["label"] == name).any() and (external["label"] == name).any()]
    found = differences(_scored(own, classes, kept, positive), _scored(external, classes, kept, positive), False)
    before, after = (calibration_line((rows["label"] == positive).to_numpy(), rows[f"c_{positive}"].to_numpy(float),
                                      rows["group"].to_numpy()) for rows in (own, external))
    moved = subtract(before, after, pd.Series(0.0, before.index)).rename(f"calibration {{}} {positive}".format)
    table = pd.concat([found.iloc[:3], moved, found.iloc[3:]]).reset_index(names="what")
    return table.rename(columns={"value_a": "own", "value_b": "external"})[COLUMNS]


def _scored(rows: pd.DataFrame, classes: Sequence[str], kept: Sequence[str], positive: str) -> Scored:
    labels, probabilities = arrays(rows, classes)
    groups, called = rows["group"].to_numpy(), probabilities.argmax(1)
    calibrated = rows[f"c_{positive}"].to_numpy(float)
    auc = "macro AUC" if len(kept) == len(classes) else f"macro AUC of {listed(kept)}"
    each = [rate_groups(labels == index, called == index, groups) for index, _ in enumerate(classes)]

    def measure(weights: np.ndarray) -> dict[str, np.ndarray]:
        total, is_positive = weights.sum(1), labels == classes.index(positive)
        ranks = [rank_scores(labels == index, probabilities[:, index], weights)[0]
                 for index, name in enumerate(classes) if name in kept] or [np.full(len(weights), np.nan)]
        hits = weights @ (is_positive & (called == classes.index(positive)))
        return {auc: np.mean(ranks, axis=0), f"sensitivity {positive}": divide(hits, weights @ is_positive),
                f"mean probability {positive}": weights @ calibrated / total,
                **{f"share {name}": weights @ (labels == index) / total for index, name in enumerate(classes)}}

    return jackknife(measure, groups, {
        auc: min((one["auc"] for one, name in zip(each, classes, strict=True) if name in kept), default=0),
        f"sensitivity {positive}": each[classes.index(positive)]["sensitivity"]})


def describe_changes(table: pd.DataFrame, own: pd.DataFrame, where: str) -> list[str]:
    """Says in sentences what changed.

    Args:
        table: of `compare_sets`.
        own: the predictions of the run's own part.
        where: its name for people.
    """
    size = f"{counted(len(own), 'image')} of {counted(own['group'].nunique(), 'group')}"
    return [f"Against the {where} ({size}):", *(f"  {row.what} {_number(row.own)} there, {_number(row.external)} here: "
                                                f"{_verdict(row)}." for row in table.itertuples())]


def _number(value: float) -> str:
    return "not defined" if np.isnan(value) else f"{value:.3f}"


def _verdict(row) -> str:
    if np.isnan(row.difference):
        return "not comparable"
    if np.isnan(row.low):
        return f"{signed(row.difference)} (too few patients)"
    moved = "higher" if row.low > 0 else "lower" if row.high < 0 else "no difference shown"
    return f"{moved}, {signed(row.difference)} ({signed(row.low)} to {signed(row.high)})"
