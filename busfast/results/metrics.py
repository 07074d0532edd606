"""Predictions -> the table of scores: overall, for each center and device, and by patient, with intervals."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import pandas as pd

from busfast.results.bootstrap import intervals, widen
from busfast.results.predictions import arrays
from busfast.results.scores import rate_groups, score

GROUPED = ("center", "device")  # columns by whose values the scores are told apart


def by_patient(predictions: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Returns a row a patient: the mean probability of the patient's images.

    A patient whose images have several labels counts once for each of them. An image without a patient id is a
    patient of its own.
    """
    patient = predictions["patient"].where(predictions["patient"] != "", "image " + predictions["image"])
    keys = [predictions["center"], patient, predictions["label"]]
    found = predictions.groupby(keys, sort=False)[[f"p_{name}" for name in classes]].mean()
    group = predictions.groupby(keys, sort=False)["group"].first()
    return found.assign(group=group).reset_index()


def assess(predictions: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Computes every score of every part.

    Args:
        predictions: as `read_predictions` returns them.
        classes: in the model's order.

    Returns:
        Rows with part, by ("all", "center", "device", "patient"), value (of center or device, else ""), score,
        estimate, low, high (95%, by a bootstrap over groups), images (rows counted) and groups. NaN where a score is
        not defined for those images.
    """
    rows = []
    for part, of in predictions.groupby("part", sort=False):
        for by, value, some in _subsets(of, classes):
            found = assess_rows(some, classes)
            rows.append(found.reset_index(names="score").assign(part=part, by=by, value=value))
    columns = ["part", "by", "value", "score", "estimate", "low", "high", "images", "groups"]
    return pd.concat(rows, ignore_index=True)[columns]


def assess_rows(some: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Computes the scores of these rows alone, indexed by name; see `assess`."""
    labels, probabilities = arrays(some, classes)
    groups = some["group"].to_numpy()
    found = intervals(partial(score, labels, probabilities, classes=classes), groups, some["label"].to_numpy(),
                      biased=("ece",))
    return widen(found, _counts(labels, probabilities.argmax(1), groups, classes)).assign(
        images=len(some), groups=len(set(groups)))


def _subsets(of: pd.DataFrame, classes: Sequence[str]) -> Iterator[tuple[str, str, pd.DataFrame]]:
    yield "all", "", of
    for column in GROUPED:
        if of[column].nunique() > 1:
            for value, some in of.groupby(column, sort=True):
                yield column, value, some
    yield "patient", "", by_patient(of, classes)


def _counts(labels: np.ndarray, predicted: np.ndarray, groups: np.ndarray, classes: Sequence[str]) -> dict[str, int]:
    """Of how many groups each score that is a share is one."""
    found = {"accuracy": len(set(groups))}
    for index, name in enumerate(classes):
        rates = rate_groups(labels == index, predicted == index, groups)
        found |= {f"{key}_{name}": count for key, count in rates.items()}
    return found
