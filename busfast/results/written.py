"""Tables of scores that `evaluate` has written, read again instead of computing their intervals."""

from pathlib import Path

import numpy as np
import pandas as pd

from busfast.csvfile import read_frame
from busfast.errors import UserError

FORMAT = "%.6g"  # of every number in these files
TOLERANCE = 1e-5  # relative: what six digits leave of a number


def read_intervals(path: Path, estimates: pd.DataFrame) -> pd.DataFrame | None:
    """Returns a table with the low and high of the file that `evaluate` wrote of it.

    Args:
        path: the file.
        estimates: the table without intervals, which costs little to compute.

    Returns:
        None if the file is missing or damaged, or is of other predictions, another target or another class.
    """
    numeric = [name for name in estimates if pd.api.types.is_numeric_dtype(estimates[name])]
    try:
        written = read_frame(path, list(estimates), keep_default_na=False, na_values={name: [""] for name in numeric},
                             dtype={name: str for name in estimates if name not in numeric})
        same = len(written) == len(estimates) and all(
            np.allclose(written[name], estimates[name], rtol=TOLERANCE, atol=0, equal_nan=True) if name in numeric
            else (written[name] == estimates[name].to_numpy()).all()
            for name in estimates.columns.drop(["low", "high"]))
    except (UserError, TypeError):
        return None
    return estimates.assign(low=written["low"].to_numpy(), high=written["high"].to_numpy()) if same else None
