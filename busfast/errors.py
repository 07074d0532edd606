"""The one error a user is meant to read, and the nearest right word for a wrong one."""

import difflib
from collections.abc import Iterable
from typing import Any


class UserError(Exception):
    """Something the user can mend: the message names the value, the place and the way out."""

    def __str__(self):
        return self.message

    def __init__(self, message: str):
        super().__init__(message)
        self.message = message  # fastai puts its own words into args when a callback raises


def choose(kind: str, value: str, choices: Iterable[str]) -> str:
    """Returns `value` if it is one of `choices`.

    Raises:
        UserError: otherwise; it names the value, the nearest choice and all choices.
    """
    choices = list(choices)
    if value in choices:
        return value
    near = difflib.get_close_matches(str(value), choices, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise UserError(f"Unknown {kind} '{value}'.{hint} Choose from: {', '.join(choices)}.")


def check_range(name: str, value: Any, low: float, high: float, hint: str = "") -> None:
    """Refuses a number out of its range, named as the user gave it.

    Args:
        name: of the flag or key.
        value: the number.
        low, high: the smallest and largest value allowed.
        hint: what the limit is, such as "the cores of this machine".

    Raises:
        UserError: the number is below `low` or above `high`, or not a number (NaN).
    """
    if not low <= value <= high:
        raise UserError(f"{name}={value} is out of range: give a number from {low} to {high}"
                        + (f" ({hint})." if hint else "."))
