"""The class whose sensitivity and thresholds are reported: named, or plain from the classes' names, or asked for."""

from collections.abc import Sequence

from busfast.data.labels import HEALTHY, plain
from busfast.errors import UserError, choose
from busfast.pipelines.config import Config
from busfast.text import listed

POSITIVE = "malignant"


def plain_positive(classes: Sequence[str]) -> str:
    """Returns malignant, else of two classes the one beside a healthy one; "" if there is neither."""
    ill = [name for name in classes if plain(name) not in HEALTHY]
    malignant = [name for name in classes if plain(name) == POSITIVE]
    return (malignant or (ill if len(classes) == 2 and len(ill) == 1 else [""]))[0]


def require_positive(config: Config, what: str, given: str | None = None) -> str:
    """Returns the positive class; it is never guessed, as it could be the healthy one.

    Args:
        config: names the classes and, if the pipeline file does, the positive one.
        what: the run or pipeline, for the message.
        given: the class that was asked for, which goes over the configuration's.

    Raises:
        UserError: `given` is no class, or none is given and the names of the classes do not tell.
    """
    if given is not None:
        return choose("class", given, config.classes)
    if positive := config.positive or plain_positive(config.classes):
        return positive
    raise UserError(f"{what}: which of the classes {listed(config.classes)} is the positive one, whose sensitivity and "
                    "thresholds are reported, is not plain from their names. Name it: --positive=CLASS (evaluate "
                    "records it for the other verbs) or, in the pipeline file before training, positive: CLASS")
