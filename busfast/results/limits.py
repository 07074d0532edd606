"""The limits of an evaluation: how few images, patients and centers are behind its scores."""

import numpy as np
import pandas as pd
from scipy.stats import norm

from busfast.results.evaluation import Evaluation
from busfast.results.predictions import arrays
from busfast.text import counted, times

MIN_GROUPS = 20  # of a class in a center or part; scores of fewer mean little
WITHIN = 0.05  # of a sensitivity: half of an interval that a study would be planned for


def find_limits(found: Evaluation) -> list[str]:
    """Returns the limits of an evaluation, the gravest first, each in a sentence."""
    test = found.test
    limits = [*found.failures, *_positive_limits(found, test), *_class_limits(found, test),
              *_center_limits(found, test)]
    limits += found.worsened
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
        limits.append(f"The {found.where} has been scored {times(len(found.history))}. Any change made in between was "
                      f"selected on the {found.where}.")
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
    groups = positive["group"].nunique()
    limits = [f"{counted(len(positive), f'{found.positive} {found.tested} image')} of "
              f"{counted(groups, 'group')} (patients, or duplicates): {text}."]
    labels, probabilities = arrays(positive, found.config.classes)
    right = probabilities.argmax(1) == labels
    if (needed := groups_needed(right, positive["group"].to_numpy())) > groups:
        limits.append(f"To know the sensitivity for {found.positive} within {WITHIN} (95%), about {needed} patients "
                      f"with {found.positive} images are needed; there are {groups}.")
    return limits


def groups_needed(right: np.ndarray, groups: np.ndarray, within: float = WITHIN) -> int:
    """Returns of how many groups (patients) a share has to be, for its 95% interval to reach no further than `within`.

    Args:
        right: bool, (n,), of each image: whether it counts for the share.
        groups: (n,), its group; groups have as many images, which are as much alike, as these.
        within: half of the interval.

    Source:
        Buderer 1996, "Incorporating the prevalence of disease into the sample size calculation for sensitivity and
        specificity", times the design effect of images of the same patients (Rao and Scott 1992).
    """
    sums = pd.Series(right).groupby(groups).agg(["sum", "size"]).to_numpy()
    count, images, share = len(sums), len(right), right.mean()
    design = images / count  # of images that are all alike within a group
    if 0 < share < 1 and count > 1:
        variance = count / (count - 1) * ((sums[:, 0] - share * sums[:, 1]) ** 2).sum() / images**2
        design = max(1.0, variance * images / (share * (1 - share)))
    planned = (right.sum() + 2) / (images + 4)  # Agresti and Coull 1998: 0 and 1 are certain only by luck
    independent = norm.ppf(0.975) ** 2 * planned * (1 - planned) / within**2
    return int(np.ceil(independent * design * count / images))


def _class_limits(found: Evaluation, test: pd.DataFrame) -> list[str]:
    counts = {name: test.loc[test["label"] == name, "group"].nunique() for name in found.config.classes}
    return [f"Only {counted(count, 'group')} with images of class {name} in the {found.where}: its scores mean little."
            if count else f"The {found.where} holds no {name} image: what needs one is not defined."
            for name, count in counts.items() if count < MIN_GROUPS and name != found.positive]


def _center_limits(found: Evaluation, test: pd.DataFrame) -> list[str]:
    centers = test["center"].nunique()
    if centers == 1:
        name = test["center"].iloc[0]
        return [f"All {found.tested} images come from one center ({name})." if name else
                f"The center of the {found.tested} images is not recorded: the scores may differ between centers."]
    limits = []
    for name, rows in test[test["center"] != ""].groupby("center"):
        missing = [label for label in found.config.classes if label not in set(rows["label"])]
        if missing:
            limits.append(f"Center {name} has no {found.tested} image of class {', '.join(missing)}: scores that need "
                          "it are not defined there.")
        elif rows["group"].nunique() < MIN_GROUPS:
            limits.append(f"Center {name} has only {counted(rows['group'].nunique(), 'group')} in the {found.where}.")
    return limits
