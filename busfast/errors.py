"""The error that a user reads, and checks of what the user gave."""

import difflib
from collections.abc import Iterable
from typing import Any


class UserError(Exception):
    """Something the user can fix; the message names the value, the place and the way out."""

    def __str__(self):
        return self.message

    def __init__(self, message: str):
        super().__init__(message)
        self.message = message  # fastai overwrites args if a callback raises


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
    """Returns " Did you mean 'x'?" with the choice most similar to `value`; "" if none is similar."""
    similar = difflib.get_close_matches(str(value), choices, n=1, cutoff=cutoff)
    return f" Did you mean '{similar[0]}'?" if similar else ""


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
