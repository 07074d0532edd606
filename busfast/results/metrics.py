"""Predictions -> the table of scores: overall, for each center and device, and by patient, with intervals."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import pandas as pd

from busfast.results.bootstrap import REPLICATES, intervals, widen
from busfast.results.predictions import arrays
from busfast.results.scores import rate_groups, score

SUBSETS = ("center", "device")  # columns, for each of whose values there are scores
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


def assess(predictions: pd.DataFrame, classes: Sequence[str], replicates: int = REPLICATES) -> pd.DataFrame:
    """Computes every score of every part of some predictions; `replicates`: see `intervals`.

    Returns:
        Rows with part, by ("all", "center", "device", "patient"), value (of center or device, else ""), score,
        estimate, low, high (95%, by a bootstrap over groups), images (rows counted) and groups. NaN where a score is
        undefined for those images.
    """
    tables = [assess_rows(rows, classes, replicates).reset_index(names="score").assign(
        part=part, by=by, value=value) for part, part_rows in predictions.groupby("part", sort=False)
        for by, value, rows in (*subsets(part_rows), ("patient", "", by_patient(part_rows, classes)))]
    return pd.concat(tables, ignore_index=True)[COLUMNS]


def assess_rows(rows: pd.DataFrame, classes: Sequence[str], replicates: int = REPLICATES) -> pd.DataFrame:
    """Computes the scores of some rows, indexed by name; see `assess`."""
    labels, probabilities = arrays(rows, classes)
    groups = rows["group"].to_numpy()
    counts = {"images": len(rows), "groups": len(set(groups))}
    found = intervals(partial(score, labels, probabilities, classes=classes), groups, rows["label"].to_numpy(),
                      replicates, biased=("ece",))
    return widen(found, _share_groups(labels, probabilities.argmax(1), groups, classes)).assign(**counts)


def subsets(part: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Yields by, value and rows of all predictions of a part, and of those of each center and device."""
    yield "all", "", part
    for column in SUBSETS:
        if part[column].nunique() > 1:
            for value, rows in part.groupby(column, sort=True):
                yield column, value, rows


def _share_groups(labels: np.ndarray, predicted: np.ndarray, groups: np.ndarray,
                  classes: Sequence[str]) -> dict[str, int]:
    """Returns for each score that is a share, the number of groups that it is a share of."""
    counts = {"accuracy": len(set(groups))}
    for index, name in enumerate(classes):
        rates = rate_groups(labels == index, predicted == index, groups)
        counts |= {f"{rate}_{name}": count for rate, count in rates.items()}
    return counts
