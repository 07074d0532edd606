"""What must not straddle the parts of a split: the images of a patient, and images that are (nearly) the same."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def connected(count: int, a: Sequence[int], b: Sequence[int]) -> np.ndarray:
    """Returns the component, numbered from 0, of each of `count` things that are linked in pairs (a[i], b[i])."""
    links = coo_array((np.ones(len(a), dtype=bool), (a, b)), shape=(count, count))
    return connected_components(links, directed=False)[1]


def group_names(table: pd.DataFrame, *, across_centers: bool) -> pd.Series:
    """Names the group of each row: rows are one group if they share a patient or a value of the column `group`, if any.

    A name depends on the rows of its own group alone: not on their order, nor on other groups. An image without both is
    its own group. `across_centers`: the same patient id at two centers is the same person.
    """
    alone = "image " + table["image"]
    place = "" if across_centers else " of center " + table["center"]
    keys = [("patient " + table["patient"] + place).where(table["patient"] != "", "")]
    if "group" in table:
        keys.append(("group " + table["group"]).where(table["group"] != "", ""))
    a, b = [], []
    for key in keys:
        rows = np.flatnonzero(key != "")
        codes, _ = pd.factorize(key.iloc[rows])
        first = rows[np.unique(codes, return_index=True)[1]] if len(rows) else rows
        a.append(rows)
        b.append(first[codes])
    component = connected(len(table), np.concatenate(a), np.concatenate(b))
    own = keys[0] if len(keys) == 1 else keys[0].where(keys[0] != "", keys[1])
    return _least(own.where(own != "", alone), component)


def add_groups(table: pd.DataFrame, a: Sequence[int], b: Sequence[int]) -> pd.DataFrame:
    """Returns the table with a column `group`: the same name for rows of the same patient (within a center), duplicates
    (row positions a[i], b[i]) or group it had before; "" for a row that is alone.
    """
    before = group_names(table, across_centers=False)
    codes, _ = pd.factorize(before)
    component = connected(codes.max() + 1, codes[a], codes[b])[codes]
    names = _least(before, component)
    sizes = names.map(names.value_counts())
    return table.assign(group=names.where(sizes > 1, "").astype(object))


def _least(keys: pd.Series, component: np.ndarray) -> pd.Series:
    """The least key of each component, for each row: a name that does not depend on the order of rows."""
    codes, sorted_keys = pd.factorize(keys, sort=True)
    least = np.full(component.max() + 1, len(sorted_keys))
    np.minimum.at(least, component, codes)
    return pd.Series(np.asarray(sorted_keys, dtype=object)[least[component]], index=keys.index)
