"""Labels as people write them -> classes of the model."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from busfast.errors import choose

CLASSES = ("normal", "benign", "malignant")  # of breast ultrasound and bone radiographs; first, where they occur


def match_label(label: str, classes: tuple[str, ...]) -> str:
    """Returns the class that a label names, ignoring case, spaces, '-' and '_'; UserError if it names none."""
    if label in classes:
        return label
    return {plain(name): name for name in classes}.get(plain(label)) or choose("label", label, classes)


def find_classes(labels: Iterable[str]) -> dict[str, str]:
    """Returns the class of each label as written, in the model's order: `CLASSES` where they occur, then the others,
    sorted; numbers by value. Spellings that differ in case, spaces, '-' and '_' are one class, named like the most
    frequent of them."""
    counts = Counter(labels)
    if all(math.isfinite(_number(label)) for label in counts):
        return {label: label for label in sorted(counts, key=lambda label: (_number(label), label))}
    names: dict[str, str] = {plain(name): name for name in CLASSES}
    for label, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        names.setdefault(plain(label), label)
    found = {label: names[plain(label)] for label in counts}
    order = [name for name in CLASSES if name in found.values()] + sorted({*found.values()} - {*CLASSES})
    return {label: name for name in order for label in sorted(found) if found[label] == name}


def order_classes(labels: Iterable[str], delim: str = "") -> tuple[str, ...]:
    """Returns the classes of labels in the model's order; see `find_classes` and `split_labels`."""
    return tuple(dict.fromkeys(find_classes(one for label in labels for one in split_labels(label, delim)).values()))


def split_labels(label: str, delim: str = "") -> list[str]:
    """Returns the labels of an image that has several, separated by `delim`; "" as `delim`: it has one."""
    return [part for one in label.split(delim) if (part := one.strip())] if delim else [label]


def join_labels(labels: Iterable[str], delim: str) -> dict[str, str]:
    """Returns the labels of each image as written -> the same as classes, in the model's order, each once."""
    labels = set(labels)
    found = find_classes(one for label in labels for one in split_labels(label, delim))
    order = list(dict.fromkeys(found.values()))
    return {label: delim.join(sorted({found[one] for one in split_labels(label, delim)}, key=order.index))
            for label in labels}


def name_predicted(classes: Sequence[str], values: np.ndarray, delim: str = "",
                   thresholds: np.ndarray | float = 0.5) -> list[str]:
    """Returns the class with the highest value, a probability or logit, in each row, (N, k); of several labels, those
    that reach their thresholds."""
    if not delim:
        return [classes[index] for index in values.argmax(axis=1)]
    return [delim.join(name for name, called in zip(classes, row, strict=True) if called)
            for row in values >= thresholds]


def _number(label: str) -> float:
    try:
        return float(label)
    except ValueError:
        return math.nan


def plain(label: str) -> str:
    """Returns a label in lower case, without spaces, '-' and '_'."""
    return re.sub(r"[\s_-]+", "", label).casefold()
