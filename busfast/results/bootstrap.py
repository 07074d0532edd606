"""Draws of patients, for the band around a curve; the intervals of scores are in `intervals.py`."""

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd

CELLS = 4_000_000  # images times replicates in one batch: bounds the memory
MIN_GROUPS = 5  # in a stratum; smaller ones are joined, since one of a single group would never vary


def draw_weights(groups: np.ndarray, strata: np.ndarray, replicates: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Draws groups with replacement, within strata, so that few replicates lack a class that the images have.

    Args:
        groups: (n,), the group (patient) of each image.
        strata: (n,), the label of each image; a group's stratum is the set of its images' labels. Strata of fewer than
            five groups are joined.
        replicates: number of draws.
        seed: of the draws.

    Yields:
        (b, n), how often each image counts; `replicates` rows in all.
    """
    codes, names = pd.factorize(groups)
    sets = pd.Series(strata).groupby(codes).agg(lambda values: "\n".join(sorted(set(map(str, values)))))
    members = _join(sets.groupby(sets.to_numpy(), sort=True).indices.values())
    rng = np.random.default_rng(seed)
    batch = max(1, CELLS // len(codes))
    for start in range(0, replicates, batch):
        rows = min(batch, replicates - start)
        counts = np.zeros((rows, len(names)))
        for stratum in members:
            drawn = rng.integers(0, len(stratum), (rows, len(stratum))) + len(stratum) * np.arange(rows)[:, None]
            counts[:, stratum] = np.bincount(drawn.ravel(), minlength=rows * len(stratum)).reshape(rows, -1)
        yield counts[:, codes]


def _join(members: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Joins strata, smallest first, until each has `MIN_GROUPS` groups or only one is left."""
    members = sorted(members, key=len)
    while len(members) > 1 and len(members[0]) < MIN_GROUPS:
        members = sorted([np.concatenate(members[:2]), *members[2:]], key=len)
    return members
