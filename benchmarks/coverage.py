"""How often intervals hold the truth, on simulated predictions whose true scores are known: today's, and those of the
middle 95% of draws of patients that they replaced; and DeLong's, which the report shows beside that of an AUC.

Makes the table "Scores and intervals" of docs/evaluation.md.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from common import run_study

from busfast.bench.report import Report
from busfast.progress import progress
from busfast.results.bootstrap import draw_weights
from busfast.results.calibration import calibrate
from busfast.results.calibration_line import calibration_line
from busfast.results.calibration_table import brier_change
from busfast.results.delong import delong
from busfast.results.intervals import differences, jackknife
from busfast.results.metrics import fewest_groups
from busfast.results.scores import score

DEFAULTS = {"rounds": 200, "only": ""}
PATIENTS = (5, 10, 20, 40, 60, 150)
CLASSES = ("normal", "benign", "malignant")
SCORES = ("macro_auc", "auc_malignant", "ap_malignant", "accuracy", "balanced_accuracy", "sensitivity_malignant",
          "specificity_malignant", "ppv_malignant", "npv_malignant", "macro_f1", "mcc", "brier")
DELONG = "DeLong, auc_malignant"
COMPARED = ("macro_auc", "balanced_accuracy", "sensitivity_malignant")
EVEN, RARE = (1 / 3, 1 / 3, 1 / 3), (0.5, 0.35, 0.15)
# Share of each class; most images of a patient; share of images with a label of their own; distance of the classes;
# what the logits of a calibrated model are multiplied by.
SETTINGS = {"even": (EVEN, 1, 0.0, 1.5, 1), "few malignant": (RARE, 1, 0.0, 1.5, 1),
            "several images": (EVEN, 8, 0.0, 1.5, 1), "several labels": (RARE, 6, 0.3, 1.5, 1),
            "sharp": (EVEN, 1, 0.0, 2.5, 3), "sharp, few malignant": (RARE, 6, 0.0, 2.5, 3)}
TEMPERATURE = 1.3
DRAWS = 200  # of the intervals before
NOTHING = pd.DataFrame({"low": [], "high": []}, dtype=float)
LARGE = 40_000  # patients whose scores are taken for the truth


def simulate(rng: np.random.Generator, patients: int, shares: tuple[float, ...], images: int, own: float,
             distance: float, scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns labels, probabilities of two models, and groups; half of what varies is common to a patient's images."""
    count = rng.integers(1, images + 1, patients)
    groups = np.repeat(np.arange(patients), count)
    labels = rng.choice(3, patients, p=shares)[groups]
    labels = np.where(rng.random(len(groups)) < own, rng.choice(3, len(groups), p=shares), labels)

    def noise() -> np.ndarray:
        return np.sqrt(0.5) * (rng.normal(size=(patients, 3))[groups] + rng.normal(size=(len(groups), 3)))

    first = noise() + distance * np.eye(3)[labels]
    logits = [distance * scale * values + np.log(shares) for values in (first, first + 0.7 * noise())]
    weights = [np.exp(values - values.max(1, keepdims=True)) for values in logits]
    return labels, *(values / values.sum(1, keepdims=True) for values in weights), groups


def measure_of(labels: np.ndarray, probabilities: np.ndarray):
    """Returns what `intervals` calls a measure."""
    return partial(score, labels, probabilities, classes=CLASSES)


def before(measures: list, groups: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """Returns low and high, by name: the middle 95% of draws of patients; NaN where a tenth of them has no value, or
    all have the same."""
    drawn = [pd.concat([pd.DataFrame(measure(weights)) for weights in draw_weights(groups, labels, DRAWS)])
             for measure in measures]
    draws = pd.concat([drawn[0][list(SCORES)], (drawn[1] - drawn[0])[list(COMPARED)].add_prefix("difference of ")],
                      axis=1)
    low, high = draws.quantile(0.025), draws.quantile(0.975)
    given = (draws.notna().mean() >= 0.9) & (high - low > 1e-12)
    return pd.DataFrame({"low": low.where(given), "high": high.where(given)})


def lines(labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray,
          with_intervals: bool = True) -> pd.DataFrame:
    """Returns what has no interval of before: calibration intercept and slope of malignant, the change of the Brier
    score by a temperature, and the AUC of malignant with DeLong's interval; estimate, low and high, by name."""
    found = calibration_line(labels == 2, probabilities[:, 2], groups, with_intervals).rename("{}_malignant".format)
    milder = calibrate(np.log(probabilities.clip(1e-30)), TEMPERATURE)
    found.loc["temperature's change of brier"] = brier_change(labels, probabilities, milder, groups)
    found.loc[DELONG] = delong(labels == 2, probabilities[:, 2], groups)
    return found


def after(measures: list, groups: np.ndarray, fewest: list[dict[str, int]]) -> pd.DataFrame:
    """Returns low and high, by name."""
    both = [jackknife(measure, groups, counts) for measure, counts in zip(measures, fewest, strict=True)]
    compared = differences(both[0], both[1], True).loc[list(COMPARED)].rename("difference of {}".format)
    return pd.concat([both[0][0].loc[list(SCORES)], compared])[["low", "high"]]


def run(folder: Path, rounds: int, only: Sequence[str] = ()) -> Report:
    """Computes both intervals for simulated sets of each size and setting.

    Args:
        folder: unused.
        rounds: simulated sets of each size and setting.
        only: words of scores' names; empty: all.
    """
    found = []
    for setting, values in progress(list(SETTINGS.items()), "settings"):
        labels, *both, _ = simulate(np.random.default_rng(0), LARGE, *values)
        first, second = (pd.DataFrame(measure_of(labels, one)(np.ones((1, len(labels))))).iloc[0] for one in both)
        truth = pd.concat([first[list(SCORES)], (second - first)[list(COMPARED)].add_prefix("difference of "),
                           lines(labels, both[0], np.arange(len(labels)), False)["estimate"]])
        truth = truth[[name for name in truth.index if not only or any(word in name for word in only)]]
        for patients in PATIENTS:
            rng = np.random.default_rng(patients)
            for _ in range(rounds):
                labels, *both, groups = simulate(rng, patients, *values)
                measures = [measure_of(labels, one) for one in both]
                fewest = [fewest_groups(labels, one.argmax(1), groups, CLASSES) for one in both]
                old, new = [], [lines(labels, both[0], groups)[["low", "high"]]]
                if not set(truth.index) <= set(new[0].index):  # the others take a hundred times as long
                    old, new = [before(measures, groups, labels)], [after(measures, groups, fewest), *new]
                for kind, tables in (("before", old), ("after", new)):
                    table = pd.concat([*tables, NOTHING]).reindex(truth.index)
                    held = ((table["low"] <= truth) & (truth <= table["high"])).where(table["low"].notna())
                    found.append(pd.DataFrame({"held": held.astype(float), "width": table["high"] - table["low"],
                                               "kind": kind, "patients": patients, "setting": setting}))
    table = tabulate(pd.concat(found).rename_axis("score").reset_index())
    return Report("How often 95% intervals hold the truth", table,
                  ("after", "share of intervals that hold the truth, lowest setting"), (), [
        f"{rounds} simulated sets of each size and setting ({'; '.join(SETTINGS)}); of a size and setting where fewer "
        "than a quarter of the sets have an interval nothing is said.",
        "before, after: share of the intervals that hold the truth, in the setting where it is lowest; mean_before, "
        "mean_after: over all; width_before, width_after: mean width; given: share of the sets that have an interval."])


def by_setting(found: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Returns of each score, number of patients, value of the column `kind` and setting: the share of intervals that
    hold the truth, mean width, number of intervals and of sets; without those where few sets have an interval."""
    each = found.groupby(["score", "patients", kind, "setting"], sort=False).agg(
        held=("held", "mean"), width=("width", "mean"), given=("held", "count"), sets=("held", "size"))
    return each[each["given"] >= 0.25 * each["sets"]]


def tabulate(found: pd.DataFrame) -> pd.DataFrame:
    """Makes the rows of the report, one for each score and number of patients."""
    by = by_setting(found, "kind").groupby(["score", "patients", "kind"], sort=False).agg(
        lowest=("held", "min"), mean=("held", "mean"), width=("width", "mean"), given=("given", "sum"),
        sets=("sets", "sum")).unstack("kind")
    rows = pd.DataFrame({f"{name}{kind}": by.get((column, kind)) for name, column in (
        ("", "lowest"), ("mean_", "mean"), ("width_", "width")) for kind in ("before", "after")} | {
                         "given": by["given", "after"] / by["sets", "after"]}).reset_index()
    return rows.assign(name=[f"{row.score}, {row.patients}" for row in rows.itertuples()])[
        ["name", *rows.columns.drop(["score", "patients"])]]


if __name__ == "__main__":
    run_study("coverage", __doc__, DEFAULTS, run)
