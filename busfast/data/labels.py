"""Labels as people write them -> the classes of the model."""

import re

from busfast.errors import choose

CLASSES = ("normal", "benign", "malignant")  # the default, of breast ultrasound and bone radiographs


def match_label(label: str, classes: tuple[str, ...]) -> str:
    """Returns the class that a label names, whatever its capitals, spaces, '-' and '_'.

    Raises:
        UserError: it names none; the message has the nearest and all of them.
    """
    if label in classes:
        return label
    return {plain(name): name for name in classes}.get(plain(label)) or choose("label", label, classes)


def plain(label: str) -> str:
    """A label without what people write differently: capitals, spaces, '-' and '_'."""
    return re.sub(r"[\s_-]+", "", label).casefold()
