"""The near-duplicates of a set of images, searched once and kept in this user's cache folder."""

import hashlib
import os
from contextlib import suppress

import numpy as np
import pandas as pd

from busfast.data.duplicates import comparable, near_duplicates
from busfast.errors import UserError
from busfast.files import atomic, cache_folder

VERSION = f"busfast duplicates 1, NumPy {np.__version__}"  # increment when `near_duplicates` finds other pairs
COLUMNS = {"a": "int64", "b": "int64", "similarity": "float64", "mirrored": "bool"}


def cached_near_duplicates(prints: pd.DataFrame) -> pd.DataFrame:
    """Returns what `near_duplicates` does; reads it from the cache if it was searched for in the same thumbnails.

    The search takes seconds even for a few hundred images, and each training needs its result. BUSFAST_CACHE=off
    switches the cache off.
    """
    digest = hashlib.blake2b(VERSION.encode(), digest_size=16)
    thumbnails = prints["thumbnail"].to_numpy()
    for row in comparable(prints):
        digest.update(b"%d " % row + thumbnails[row])
    try:
        path = None if os.environ.get("BUSFAST_CACHE") == "off" else \
            cache_folder() / f"duplicates-{digest.hexdigest()}.npz"
    except RuntimeError:  # no home folder
        path = None
    if path is not None:
        with suppress(Exception):  # a damaged file raises nearly anything; the cost is another search
            with np.load(path, allow_pickle=False) as file:
                return pd.DataFrame({name: file[name].astype(kind, casting="equiv") for name, kind in COLUMNS.items()})
    pairs = near_duplicates(prints)
    if path is not None:
        with suppress(OSError, UserError):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with atomic(path, "wb") as opened:
                np.savez(opened, **{name: pairs[name].to_numpy(kind) for name, kind in COLUMNS.items()})
    return pairs
