"""What an interval of a difference says, in a sentence: that it matters, that it is small, or that it is not shown."""

import numpy as np

from busfast.text import signed

MATERIAL = 0.02  # a smaller difference of two scores is called small


def judge(value: float, low: float, high: float) -> str:
    """Returns what the 95% interval of a difference shows.

    Returns:
        "material" (all of it is beyond `MATERIAL`, on one side of 0), "unsure" (beyond 0, not all of it beyond
        `MATERIAL`), "small" (beyond 0, all within `MATERIAL`), "none" (holds 0, all within `MATERIAL`: equivalent),
        "open" (holds 0, and more), "few" (no interval) or "undefined" (no difference).
    """
    if np.isnan(value):
        return "undefined"
    if np.isnan(low):
        return "few"
    within = max(-low, high) < MATERIAL
    if low <= 0 <= high:
        return "none" if within else "open"
    return "small" if within else "material" if max(low, -high) > MATERIAL else "unsure"


def describe_change(what: str, value: float, low: float, high: float, words: tuple[str, str, str]) -> str:
    """Returns the verdict on a difference in a sentence.

    Args:
        what: the difference is of, such as "Covering the lesion".
        value, low, high: the difference and its 95% interval.
        words: what a material gain means, what a material loss means, and what it means that none matters.
    """
    found = judge(value, low, high)
    if found in ("few", "undefined"):
        return "Too few patients: no verdict." if found == "few" else "The score is not defined here: no verdict."
    gains, loses, equal = words
    if found in ("none", "open"):
        rest = f", and none of {MATERIAL:g} or more: {equal}." if found == "none" else \
            f"; one of {MATERIAL:g} or more is not ruled out."
        return f"{what}: no difference shown ({signed(low)} to {signed(high)}){rest}"
    size, (least, most) = abs(value), sorted((abs(low), abs(high)))
    meaning = gains if value > 0 else loses
    tail = {"material": meaning, "unsure": f"{meaning}, perhaps only a little", "small": "shown, but small"}[found]
    return f"{what} {'gains' if value > 0 else 'costs'} {size:.3f} ({least:.3f} to {most:.3f}): {tail}."
