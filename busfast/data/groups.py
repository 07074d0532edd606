"""Groups: images that must be in the same part of a split, because of the same patient or (nearly) the same picture."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def connected(count: int, a: Sequence[int], b: Sequence[int]) -> np.ndarray:
    """Returns the connected component, from 0, of each of `count` nodes with the edges (a[i], b[i])."""
    links = coo_array((np.ones(len(a), dtype=bool), (a, b)), shape=(count, count))
    return connected_components(links, directed=False)[1]


def group_names(table: pd.DataFrame, *, across_centers: bool) -> pd.Series:
    """Names the group of each row: rows with the same patient or the same value in the column `group`, if there is one.

    A name depends only on the rows of its group: not on their order, nor on other groups. An image without patient and
    group is a group of its own. `across_centers`: the same patient id at two centers is the same person.
    """
    center = "" if across_centers else " of center " + table["center"]
    keys = [("patient " + table["patient"] + center).where(table["patient"] != "", "")]
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
    return _least(own.where(own != "", "image " + table["image"]), component)


def add_groups(table: pd.DataFrame, a: Sequence[int], b: Sequence[int]) -> pd.DataFrame:
    """Returns the table with a column `group`: the same name for rows of the same patient (of a center), duplicates
    (row positions a[i], b[i]) or previous group; "" for a row that shares none.
    """
    before = group_names(table, across_centers=False)
    codes, _ = pd.factorize(before)
    component = connected(codes.max() + 1, codes[a], codes[b])[codes]
    names = _least(before, component)
    sizes = names.map(names.value_counts())
    return table.assign(group=names.where(sizes > 1, "").astype(object))


def _least(keys: pd.Series, component: np.ndarray) -> pd.Series:
    """Returns for each row the least key of its component, which does not depend on the order of rows."""
    codes, sorted_keys = pd.factorize(keys, sort=True)
    least = np.full(component.max() + 1, len(sorted_keys))
    np.minimum.at(least, component, codes)
    return pd.Series(np.asarray(sorted_keys, dtype=object)[least[component]], index=keys.index)
