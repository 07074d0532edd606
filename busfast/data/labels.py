"""Labels as people write them -> classes of the model."""

import re

from busfast.errors import choose

CLASSES = ("normal", "benign", "malignant")  # the default, of breast ultrasound and bone radiographs


def match_label(label: str, classes: tuple[str, ...]) -> str:
    """Returns the class that a label names, ignoring case, spaces, '-' and '_'; UserError if it names none."""
    if label in classes:
        return label
    return {plain(name): name for name in classes}.get(plain(label)) or choose("label", label, classes)


def plain(label: str) -> str:
    """Returns a label in lower case, without spaces, '-' and '_'."""
    return re.sub(r"[\s_-]+", "", label).casefold()
