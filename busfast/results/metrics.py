"""Predictions -> the table of scores: overall, for each center and other subset, and by patient, with intervals."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import pandas as pd

from busfast.results.intervals import intervals
from busfast.results.predictions import arrays
from busfast.results.scores import PRESENT, count_rates, rate_groups, score

SUBSETS = ("center", "device", "sex", "age", "lesion_area")  # columns, for each of whose values there are scores
THIRDS = {"age": (1, ""), "lesion_area": (100, "%")}  # those of numbers, by thirds of the images: their scale and unit
COLUMNS = ["part", "by", "value", "score", "estimate", "low", "high", "images", "groups"]  # of the table


def by_patient(predictions: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Returns a row per patient: the mean probability of the patient's images.

    A patient whose images have several labels counts once for each of them. An image without a patient id is a
    patient of its own.
    """
    patient = predictions["patient"].where(predictions["patient"] != "", "image " + predictions["image"])
    grouped = predictions.groupby([predictions["center"], patient, predictions["label"]], sort=False)
    means = grouped[[f"p_{name}" for name in classes]].mean()
    return pd.concat([means, grouped["group"].first()], axis=1).reset_index()


def assess(predictions: pd.DataFrame, classes: Sequence[str], with_intervals: bool = True) -> pd.DataFrame:
    """Computes every score of every part of some predictions; `with_intervals`: see `intervals`.

    Returns:
        Rows with part, by ("all", "patient" or one of `SUBSETS`), value (of that column, else ""), score, estimate,
        low, high (95%, by groups), images (rows counted) and groups. NaN where a score is undefined for those images.
    """
    tables = [assess_rows(rows, classes, with_intervals).reset_index(names="score").assign(
        part=part, by=by, value=value) for part, by, value, rows in _scored(predictions, classes)]
    return pd.concat(tables, ignore_index=True)[COLUMNS]


def count_shares(predictions: pd.DataFrame, classes: Sequence[str]) -> dict[tuple[str, str, str, str], tuple[int, int]]:
    """Returns what the scores of `assess` that are shares are of: (part, by, value, score) -> (21, 24), 21 of 24."""
    found = {}
    for part, by, value, rows in _scored(predictions, classes):
        labels, probabilities = arrays(rows, classes)
        predicted = probabilities.argmax(1)
        found[part, by, value, "accuracy"] = int((labels == predicted).sum()), len(rows)
        for index, name in enumerate(classes):
            for rate, count in count_rates(labels == index, predicted == index).items():
                found[part, by, value, f"{rate}_{name}"] = count
    return found


def _scored(predictions: pd.DataFrame, classes: Sequence[str]) -> Iterator[tuple[str, str, str, pd.DataFrame]]:
    """Yields part, by, value and rows of whatever is scored by itself."""
    for part, of_part in predictions.groupby("part", sort=False):
        for by, value, rows in (*subsets(of_part), ("patient", "", by_patient(of_part, classes))):
            yield part, by, value, rows


def assess_rows(rows: pd.DataFrame, classes: Sequence[str], with_intervals: bool = True) -> pd.DataFrame:
    """Computes the scores of some rows, indexed by name; see `assess`."""
    labels, probabilities = arrays(rows, classes)
    groups = rows["group"].to_numpy()
    return intervals(partial(score, labels, probabilities, classes=classes), groups,
                     fewest_groups(labels, probabilities.argmax(1), groups, classes),
                     with_intervals).assign(images=len(rows), groups=len(set(groups)))


def subsets(part: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Yields by, value and rows of all predictions of a part, and of those of each value of a column of `SUBSETS`."""
    yield "all", "", part
    for column in SUBSETS:
        if column in part:
            found = list(_thirds(part, column) if column in THIRDS else part.groupby(column, sort=True))
            yield from ((column, value, rows) for value, rows in found if len(found) > 1)


def _thirds(part: pd.DataFrame, column: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yields the range of each third of the numbers in a column, and its rows; those without a number are left out."""
    numbers = pd.to_numeric(part[column], errors="coerce").where(np.isfinite)
    scale, unit = THIRDS[column]
    if numbers.nunique() > 1:
        for _, rows in part.groupby(pd.qcut(numbers, 3, duplicates="drop"), observed=True):
            ends = numbers[rows.index] * scale
            yield f"{ends.min():.3g}{unit} to {ends.max():.3g}{unit}", rows


def fewest_groups(labels: np.ndarray, predicted: np.ndarray, groups: np.ndarray,
                  classes: Sequence[str]) -> dict[str, int]:
    """Returns for each score how few groups it may rest on, see `intervals`: those with images of the rarest class that
    it needs (of a predictive value: predicted so). Those that are not named need no class."""
    # The expected calibration error of few images is too large by more than it varies: no interval around it is honest.
    found, rarest = {"ece": 0}, []
    for index, name in enumerate(classes):
        each = rate_groups(labels == index, predicted == index, groups)
        found |= {f"{key}_{name}": count for key, count in each.items()}
        rarest.append(each["auc"])
    found |= dict.fromkeys(("macro_auc", "macro_ap", "macro_f1", "balanced_accuracy"), min(rarest))
    return found | {f"{name}_present": min((count for count in rarest if count), default=0) for name in PRESENT}
