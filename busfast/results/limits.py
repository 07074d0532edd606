"""What a reader must know before any score: how few images, patients and centers stand behind it."""

from busfast.results.evaluation import Evaluation
from busfast.text import counted

FEW = 20  # groups of a class in a center or part, below which its scores are hardly a number


def find_limits(found: Evaluation) -> list[str]:
    """Says the limits of an evaluation, the gravest first, each in a sentence."""
    test = found.test
    limits = [*_width(found, test), *_classes(found, test), *_center(found, test)]
    weights = (found.record.get("weights") or {}).get("text", "")
    if "random" in weights or "out of reach" in weights:
        limits.append(f"The model did not start from its own pretrained weights ({weights}).")
    if (unknown := int((test["patient"] == "").sum())):
        limits.append(f"{unknown} of {len(test)} test images have no patient id: each counts as a patient, and if some "
                      "are of one person the intervals are too narrow.")
    limits.append("The epoch was chosen, and temperature and thresholds fitted, on the validation part: its scores "
                  "are too good to be compared with those of the test part.")
    if len(found.history) > 1:
        limits.append(f"The test part was scored {counted(len(found.history), 'time')}. Whoever changed something in "
                      "between has chosen by it.")
    limits.append("Images from other centers, devices and populations may give other scores.")
    return limits


def _width(found: Evaluation, test) -> list[str]:
    row = found.pick(f"sensitivity_{found.positive}")
    of = test[test["label"] == found.positive]
    if of.empty:
        return [f"The test part holds no {found.positive} image: what matters most was not tested."]
    points = 100 * (row["high"] - row["low"])
    wide = f"the interval of their sensitivity is {points:.0f} points wide" if points == points else \
        "their sensitivity has no interval"
    return [f"{counted(len(of), f'{found.positive} test image')} of {counted(of['group'].nunique(), 'group')} "
            f"(patients, or copies that belong together): {wide}."]


def _classes(found: Evaluation, test) -> list[str]:
    said = []
    for name in found.config.classes:
        count = test.loc[test["label"] == name, "group"].nunique()
        if count < FEW and name != found.positive:
            said.append(f"Only {counted(count, 'group')} with images of class {name} in the test part: what is said of "
                        "it is hardly a number.")
    return said


def _center(found: Evaluation, test) -> list[str]:
    centers = test["center"].nunique()
    if centers == 1:
        name = test["center"].iloc[0]
        return [f"All test images come from one center{f' ({name})' if name else ''}."]
    said = []
    for name, of in test.groupby("center"):
        missing = [label for label in found.config.classes if label not in set(of["label"])]
        if missing:
            said.append(f"Center {name} has no test image of class {', '.join(missing)}: scores that need it are not "
                        "defined there.")
        elif of["group"].nunique() < FEW:
            said.append(f"Center {name} has only {counted(of['group'].nunique(), 'group')} in the test part.")
    return said
