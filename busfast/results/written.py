"""Intervals that `evaluate` has written, reused instead of drawn again, where the outcome is the same to the digit."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from busfast.csvfile import read_rows
from busfast.errors import UserError

# Columns that identify some rows; with the estimates, they tell whether these are of the same images and request.
KEYS = {"metrics.csv": ("part", "by", "value", "images", "groups"),
        "operating_points.csv": ("target", "threshold", "part"),
        "referral.csv": ("wanted", "threshold", "coverage")}
FORMAT = "%.6g"  # of every number in these files
DIGITS = 6


class WrittenIntervals:
    """The intervals in the tables that `evaluate` has written into a folder.

    Six significant digits were written; an interval that they round otherwise than all digits did, to the `decimals`
    that are shown, is drawn again. `stale` collects the files that lack what was looked up.
    """

    def __init__(self, folder: Path, decimals: int):
        self.decimals, self.stale = decimals, set()
        self.rows = {name: _read(folder / name, keys) for name, keys in KEYS.items()}

    def finder(self, name: str, *key: str | float) -> Callable[[pd.Series], pd.DataFrame | None]:
        """Returns the argument `written` of `intervals` for the rows of a file with a key, the values of `KEYS`."""
        wanted = tuple(map(_cell, key))

        def find(estimate: pd.Series) -> pd.DataFrame | None:
            rows = self.rows[name].get(wanted)
            if rows is None or rows["estimate"].to_dict() != {score: _cell(value) for score, value in estimate.items()}:
                self.stale.add(name)
                return None
            found = rows.loc[estimate.index, ["low", "high"]].apply(pd.to_numeric).astype(float)
            return found if self._rounds_alike(found.to_numpy()) else None
        return find

    def _rounds_alike(self, values: np.ndarray) -> bool:  # else one lies halfway between two
        halfway = np.abs(values * 10**self.decimals % 1 - 0.5) < 1e-9
        return not (halfway | (values > 10.0 ** (DIGITS - self.decimals))).any()


def _read(path: Path, keys: tuple[str, ...]) -> dict[tuple[str, ...], pd.DataFrame]:
    """Returns the cells of a table by key and score; none of a table that is missing or damaged."""
    try:
        header, rows, _ = read_rows(path, keys)
        table = pd.DataFrame([cells for _, cells in rows], columns=header)
        table = table.rename(columns={"error": "estimate"}) if "error" in table else table
        table = table if "score" in table else table.assign(score="error")
        return {key: of.set_index("score") for key, of in table.groupby(list(keys), sort=False)}
    except (UserError, KeyError):
        return {}


def _cell(value: str | float) -> str:
    """Returns a value as `write_csv` writes it."""
    if isinstance(value, str | int | np.integer):
        return str(value)
    return "" if np.isnan(value) else FORMAT % value
