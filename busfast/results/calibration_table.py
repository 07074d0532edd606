"""How right probabilities are before and after the temperature: scores, and the sentences that follow from them."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
from scipy import stats

from busfast.results.calibration_line import calibration_line
from busfast.results.intervals import LEVEL, intervals, leave_out, left_out_variance
from busfast.results.predictions import arrays
from busfast.results.scores import score
from busfast.text import counted, signed

CHANGE = "change by the temperature"  # calibrated minus as trained, paired
MIN_CHANGE_GROUPS = 40  # of fewer, the rare large errors that decide about a change are too often missing
FEW = 100  # patients; of fewer a temperature is told to be uncertain


def calibration_table(rows: pd.DataFrame, classes: Sequence[str], states: Sequence[tuple[str, str]],
                      shown: Sequence[str], with_intervals: bool = True) -> pd.DataFrame:
    """Computes how right the probabilities of a part are.

    Args:
        rows: its predictions.
        classes: all classes.
        states: kinds of probabilities, each with the prefix of its columns.
        shown: classes whose intercept and slope are computed, see `calibration_line`.
        with_intervals: see `intervals`; the expected calibration error never has one.

    Returns:
        Columns part, probabilities (the kind), score (brier, ece, intercept_CLASS, slope_CLASS), estimate, low, high;
        if there are two kinds, also the Brier score's `CHANGE`.
    """
    groups, kinds, tables = rows["group"].to_numpy(), [], []
    for state, prefix in states:
        labels, probabilities = arrays(rows, classes, prefix)
        kinds.append(probabilities)
        each = squared_errors(probabilities)[np.arange(len(labels)), labels]
        table = intervals(partial(_mean, each), groups, with_intervals=with_intervals)
        table.loc["ece", "estimate"] = score(labels, probabilities, np.ones((1, len(rows))), classes)["ece"][0]
        lines = [calibration_line(labels == index, probabilities[:, index], groups, with_intervals).rename(
            f"{{}}_{name}".format) for index, name in enumerate(classes) if name in shown]
        tables.append(pd.concat([table, *lines]).rename_axis("score").reset_index().assign(probabilities=state))
    if len(states) == 2:
        change = brier_change(labels, kinds[0], kinds[1], groups)
        tables.append(pd.DataFrame([change], columns=["estimate", "low", "high"]).assign(
            score="brier", probabilities=CHANGE))
        if not with_intervals:
            tables[-1][["low", "high"]] = np.nan
    return pd.concat(tables, ignore_index=True).assign(part=rows["part"].iloc[0])[
        ["part", "probabilities", "score", "estimate", "low", "high"]]


def squared_errors(probabilities: np.ndarray) -> np.ndarray:
    """Returns the Brier score of each image for each label that it may have, (n, k)."""
    return (probabilities**2).sum(1, keepdims=True) - 2 * probabilities + 1


def brier_change(labels: np.ndarray, before: np.ndarray, after: np.ndarray,
                 groups: np.ndarray) -> tuple[float, float, float]:
    """Returns by how much the Brier score changes from some probabilities, (n, k), to others of the same images, and
    its 95% interval; NaN of fewer than 40 groups.

    The variance is the jackknife's, at least the one that either kind of probabilities leads to expect: the few
    errors of a sure model, which decide, may be missing by luck.
    """
    each = squared_errors(after) - squared_errors(before)
    own = each[np.arange(len(labels)), labels]
    codes, names = pd.factorize(groups)
    if len(names) < MIN_CHANGE_GROUPS:
        return float(own.mean()), np.nan, np.nan
    variances = [left_out_variance(leave_out(partial(_mean, own), groups))["brier"]]
    for expected in (before, after):
        center = (expected * each).sum(1, keepdims=True)
        spread = np.sqrt((expected * (each - center) ** 2).sum(1))  # of a patient's images: as if they went together
        variances.append((np.bincount(codes, spread) ** 2).sum() / len(codes) ** 2)
    half = stats.t.ppf((1 + LEVEL) / 2, len(names) - 1) * np.sqrt(max(variances))
    return float(own.mean()), own.mean() - half, own.mean() + half


def _mean(values: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    return {"brier": weights @ values / weights.sum(1)}


def describe_temperature(table: pd.DataFrame, valid: pd.DataFrame, temperature: float, part: str,
                         where: str) -> list[str]:
    """Says in sentences what a temperature was fitted on, and whether it helped.

    Args:
        table: of `calibration_table`.
        valid: the predictions that it was fitted on; empty for that of a bundle.
        temperature: that is described.
        part, where: the part that is scored, and its name for people.
    """
    scores = table[(table["part"] == part) & (table["score"] == "brier")].set_index("probabilities")
    (before, after), change = scores["estimate"].iloc[:2], scores.loc[CHANGE]
    patients, unknown = valid["group"].nunique(), np.isnan(change["low"])
    fitted = "of the bundle" if not patients else \
        f"fitted on {counted(len(valid), 'validation image')} of {counted(patients, 'group')} (patients, duplicates)"
    did = "cannot be shown to improve" if unknown else "improved" if change["high"] < 0 else "worsened" \
        if change["low"] > 0 else "is not shown to improve"
    few = [f"{counted(patients, 'group')} are few to fit a temperature on: other patients would give another one, so "
           "calibrated probabilities are rough."] if 0 < patients < FEW else []
    return [f"The temperature, {temperature:.2f}, {fitted}, {did} the {where}'s calibration: Brier score {before:.3f} "
            f"before, {after:.3f} after, change {signed(change['estimate'])} "
            + ("(too few patients)." if unknown else f"({signed(change['low'])} to {signed(change['high'])})."), *few]
