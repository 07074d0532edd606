"""The error that a user reads, and checks of what the user gave."""

import difflib
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any


class UserError(Exception):
    """Something the user can fix; the message names the value, the place and the way out."""

    def __str__(self):
        return self.message

    def __init__(self, message: str):
        super().__init__(message)
        self.message = message  # fastai overwrites args if a callback raises


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, where the screen already says how to go on."""


def choose(kind: str, value: str, choices: Iterable[str]) -> str:
    """Returns `value` if it is one of `choices`.

    Raises:
        UserError: otherwise; it names the value, the nearest choice and all choices.
    """
    choices = list(choices)
    if value in choices:
        return value
    raise UserError(f"Unknown {kind} '{value}'.{suggest(value, choices)} Choose from: {_listed(choices)}.")


def _listed(choices: list[str], most: int = 60) -> str:
    more = f" and {len(choices) - most:,} more" if len(choices) > most else ""
    return ", ".join(map(str, choices[:most])) + more


def suggest(value: str, choices: Iterable[str], cutoff: float = 0.6) -> str:
    """Returns " Did you mean 'x'?" with the choice of `nearest`; "" if there is none."""
    return f" Did you mean '{found}'?" if (found := nearest(value, choices, cutoff)) else ""


def nearest(value: str, choices: Iterable[str], cutoff: float = 0.6) -> str:
    """Returns the choice most similar to `value`, whatever its capitals, and the first of equals; "": none is."""
    matcher = difflib.SequenceMatcher(b=str(value).casefold())

    def similarity(choice: str) -> float:
        matcher.set_seq1(str(choice).casefold())
        return matcher.ratio() if min(matcher.real_quick_ratio(), matcher.quick_ratio()) >= cutoff else 0

    found = max(choices, key=similarity, default="")
    return found if similarity(found) >= cutoff else ""


def suggest_path(path: str | Path, fits: Callable[[Path], bool] = os.path.exists) -> str:
    """Returns " Did you mean 'FOLDER/NAME'?" with the path that fits and is, folder by folder, most similar to one that
    does not exist; "" if there is none."""
    found, parts = Path(), Path(path).parts
    for place, part in enumerate(parts, start=1):
        good = fits if place == len(parts) else os.path.isdir
        if not good(found / part):
            names: list[str] = []
            with suppress(OSError):  # not a folder, or not to be read
                names = sorted(name for name in os.listdir(found) if not name.startswith("."))
            part = nearest(part, (name for name in names if good(found / name)))
        if not part:
            return ""
        found /= part
    return f" Did you mean '{found}'?" if parts else ""


def check_range(name: str, value: Any, low: float, high: float, hint: str = "") -> None:
    """Checks that a number is in its range.

    Args:
        name: of the flag or key, for the message.
        value: the number.
        low, high: smallest and largest allowed value.
        hint: the reason for the limit, such as "the cores of this machine".

    Raises:
        UserError: the number is below `low`, above `high`, or NaN.
    """
    if not low <= value <= high:
        raise UserError(f"{name}={value} is out of range: give a number from {low} to {high}"
                        + (f" ({hint})." if hint else "."))
