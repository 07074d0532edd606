"""The limits of an evaluation: how few images, patients and centers are behind its scores."""

import numpy as np
import pandas as pd

from busfast.results.evaluation import Evaluation
from busfast.text import counted

MIN_GROUPS = 20  # of a class in a center or part; scores of fewer mean little


def find_limits(found: Evaluation) -> list[str]:
    """Returns the limits of an evaluation, the gravest first, each in a sentence."""
    test = found.test
    limits = [*_positive_limits(found, test), *_class_limits(found, test), *_center_limits(found, test)]
    weights = (found.record.get("weights") or {}).get("text", "")
    if "random" in weights or "out of reach" in weights:
        limits.append(f"The model did not start from its own pretrained weights ({weights}).")
    if (unknown := int((test["patient"] == "").sum())):
        limits.append(f"{unknown} of {len(test)} {found.tested} images have no patient id: each counts as a patient, "
                      "so the intervals are too narrow if some are of the same person.")
    if "valid" in found.parts:
        limits.append("The epoch was chosen, and temperature and thresholds fitted, on the validation part: its scores "
                      f"are optimistic and not comparable with those of the {found.where}.")
    if len(found.history) > 1:
        limits.append(f"The {found.where} was scored {counted(len(found.history), 'time')}. Any change made in between "
                      f"was selected on the {found.where}.")
    limits.append("Images from other centers, devices and populations may give other scores.")
    return limits


def _positive_limits(found: Evaluation, test: pd.DataFrame) -> list[str]:
    row = found.pick(f"sensitivity_{found.positive}")
    positive = test[test["label"] == found.positive]
    if positive.empty:
        return [f"The {found.where} holds no {found.positive} image: what matters most was not tested."]
    width = 100 * (row["high"] - row["low"])
    text = "too few patients for an interval of their sensitivity" if np.isnan(width) else \
        f"the interval of their sensitivity is {width:.0f} points wide"
    return [f"{counted(len(positive), f'{found.positive} {found.tested} image')} of "
            f"{counted(positive['group'].nunique(), 'group')} (patients, or duplicates): {text}."]


def _class_limits(found: Evaluation, test: pd.DataFrame) -> list[str]:
    counts = {name: test.loc[test["label"] == name, "group"].nunique() for name in found.config.classes}
    return [f"Only {counted(count, 'group')} with images of class {name} in the {found.where}: its scores mean little."
            if count else f"The {found.where} holds no {name} image: what needs one is not defined."
            for name, count in counts.items() if count < MIN_GROUPS and name != found.positive]


def _center_limits(found: Evaluation, test: pd.DataFrame) -> list[str]:
    centers = test["center"].nunique()
    if centers == 1:
        name = test["center"].iloc[0]
        return [f"All {found.tested} images come from one center{f' ({name})' if name else ''}."]
    limits = []
    for name, rows in test.groupby("center"):
        missing = [label for label in found.config.classes if label not in set(rows["label"])]
        if missing:
            limits.append(f"Center {name} has no {found.tested} image of class {', '.join(missing)}: scores that need "
                          "it are not defined there.")
        elif rows["group"].nunique() < MIN_GROUPS:
            limits.append(f"Center {name} has only {counted(rows['group'].nunique(), 'group')} in the {found.where}.")
    return limits
