"""Labels as people write them -> classes of the model."""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from busfast.errors import choose
from busfast.text import composed, counted

CLASSES = ("normal", "benign", "malignant")  # of breast ultrasound and bone radiographs; first, where they occur
HEALTHY = ("normal", "healthy", "control", "negative", "nofinding")  # as `plain` writes them; before all others


def match_label(label: str, classes: tuple[str, ...]) -> str:
    """Returns the class that a label names, ignoring case, spaces, '-' and '_'; UserError if it names none."""
    if label in classes:
        return label
    return {plain(name): name for name in classes}.get(plain(label)) or choose("label", label, classes)


def find_classes(labels: Iterable[str]) -> dict[str, str]:
    """Returns the class of each label as written, in the model's order: `HEALTHY` and `CLASSES` where they occur, then
    the others, sorted; numbers by value. Spellings that differ in case, spaces, '-' and '_' are one class, named like
    the most frequent of them."""
    counts = Counter(labels)
    if all(math.isfinite(_number(label)) for label in counts):
        return {label: label for label in sorted(counts, key=lambda label: (_number(label), label))}
    names: dict[str, str] = {plain(name): name for name in CLASSES}
    for label, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        names.setdefault(plain(label), label)
    found = {label: names[plain(label)] for label in counts}
    first = list(dict.fromkeys((*HEALTHY, *CLASSES)))
    order = sorted({*found.values()},
                   key=lambda name: (first.index(plain(name)) if plain(name) in first else len(first), name))
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
    """Returns a label in lower case and composed form, without spaces, '-' and '_'."""
    return re.sub(r"[\s_-]+", "", unicodedata.normalize("NFC", label)).casefold()


def find_delimiter(labels: Sequence[str]) -> tuple[str, list[int]]:
    """Returns the character that seems to separate several labels of an image, and where it occurs; "" and [] if none
    does. A space, + and the like do if all that they separate are labels of other images."""
    known = set(labels)
    for delim in "|;,/ +&_":
        joined = {label for label in known if delim in label and (delim in "|;,/" or (
            len(parts := split_labels(label, delim)) > 1 and known.issuperset(parts)))}
        if joined:
            return delim, [row for row, label in enumerate(labels) if label in joined]
    return "", []


def several_writings(names: Iterable[str]) -> list[list[str]]:
    """Returns which of some names may be one in several writings, each group sorted: 007 and 7, P12 and p-12, 25 and
    25.0."""
    groups: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        groups.setdefault(_bare(name), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def note_writings(what: str, names: Iterable[str]) -> list[str]:
    """Returns a note on names of `what` that may be one in several writings, if there are any."""
    alike = several_writings(names)
    shown = "; ".join(" and ".join(group) for group in alike[:3]) + ("; ..." if len(alike) > 3 else "")
    return [f"{counted(len(alike), what)} may be written in several ways, and are read as different ones ({shown}): "
            "audit lists them"] if alike else []


def _bare(name: str) -> str:
    """Returns a name without capitals, leading zeros, ".0", and the separators between letters and digits."""
    name = re.sub(r"^(\d+)\.0+$", r"\1", composed(name).casefold())
    name = re.sub(r"(?<!\d)[\s_-]+|[\s_-]+(?!\d)", "", name) if re.search(r"[^\W\d]", name) else name
    return re.sub(r"(?<![\d.])0+(?=\d)", "", name)
