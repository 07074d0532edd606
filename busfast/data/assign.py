"""Groups -> parts: by a hash of the group's name, adjusted where the shares of classes would be uneven."""

import hashlib

import numpy as np
import pandas as pd

from busfast.errors import UserError

CLASS_WEIGHT = 4.0  # weight of even class shares, relative to even shares of centers within a class


def assign(table: pd.DataFrame, names: pd.Series, parts: tuple[str, ...], shares: tuple[float, ...], seed: int,
           classes: tuple[str, ...], where: str) -> np.ndarray:
    """Returns the part of each row. Each group (`names`) is in one part; the shares of classes, and of classes by
    center, are even.

    The initial part depends only on a hash of the seed and the group's name, not on the order of rows or on other
    groups. Then groups are moved one at a time, always the one whose move evens the shares most (of equal ones, the one
    whose hash is closest to the other part), until no move helps. Few are moved: if rows are added or removed, most
    groups keep their part.

    Raises UserError, which names the rows as `where`, if not every part can have every class.
    """
    groups, keys = pd.factorize(names, sort=True)
    counts = _count(table, groups, len(keys))
    has = np.zeros((len(keys), len(classes)), dtype=bool)
    for column, label in enumerate(classes):
        has[groups[(table["label"] == label).to_numpy()], column] = True
    _check_enough(has, parts, classes, where)
    hashes = np.array([_hash(seed, key) for key in keys])
    ends = np.cumsum(shares)[:-1]
    part_of = np.searchsorted(ends, hashes, side="right")
    _even_out(part_of, hashes, counts, np.asarray(shares))
    _complete(part_of, has, counts, len(parts))
    for part, name in enumerate(parts):
        missing = [label for column, label in enumerate(classes) if not has[part_of == part, column].any()]
        if missing:
            raise UserError(f"Too few patients in {where} for every part to have every class: {name} has no "
                            f"{', '.join(missing)}. Add images of more patients of that class.")
    return np.array(parts)[part_of][groups]


def _hash(seed: int, name: str) -> float:
    """Returns a number from 0 to 1, the same on every machine."""
    digest = hashlib.blake2b(f"{seed} {name}".encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _count(table: pd.DataFrame, groups: np.ndarray, number: int) -> np.ndarray:
    """Returns (groups, kinds): the images of each class, then of each class at each center, that a group has."""
    labels, label_names = pd.factorize(table["label"], sort=True)
    strata = table.groupby(["label", "center"]).ngroup().to_numpy()
    counts = np.zeros((number, len(label_names) + strata.max() + 1))
    np.add.at(counts, (groups, labels), 1)
    np.add.at(counts, (groups, len(label_names) + strata), 1)
    counts[:, :len(label_names)] *= CLASS_WEIGHT**0.5  # the counts are squared later
    return counts


def _even_out(part_of: np.ndarray, hashes: np.ndarray, counts: np.ndarray, shares: np.ndarray) -> None:
    """Moves groups (in `part_of`) until no move reduces the squared distance to the parts' target counts.

    Groups with the same counts are interchangeable, so moves are evaluated per kind of group, not per group.
    """
    kinds, kind_of = np.unique(counts, axis=0, return_inverse=True)
    kind_of = kind_of.ravel()
    target = np.outer(shares, counts.sum(axis=0))
    weight = 1 / target
    excess = np.stack([counts[part_of == part].sum(axis=0) for part in range(len(shares))]) - target
    number = np.zeros((len(shares), len(kinds)), dtype=int)
    np.add.at(number, (part_of, kind_of), 1)
    starts, ends = np.cumsum(shares) - shares, np.cumsum(shares)
    squares = weight @ (kinds**2).T  # (parts, kinds)
    while True:
        slope = 2 * (weight * excess) @ kinds.T
        leave = np.where(number > 0, squares - slope, np.inf)
        gain = leave[:, None, :] + (squares + slope)[None, :, :]  # (from, to, kind)
        gain[np.arange(len(shares)), np.arange(len(shares))] = np.inf
        source, goal, kind = np.unravel_index(gain.argmin(), gain.shape)
        if gain[source, goal, kind] > -1e-9:
            return
        same_kind = np.flatnonzero((kind_of == kind) & (part_of == source))
        distance = np.maximum(starts[goal] - hashes[same_kind], hashes[same_kind] - ends[goal])
        group = same_kind[distance.argmin()]
        part_of[group] = goal
        excess[source] -= kinds[kind]
        excess[goal] += kinds[kind]
        number[source, kind] -= 1
        number[goal, kind] += 1


def _complete(part_of: np.ndarray, has: np.ndarray, counts: np.ndarray, parts: int) -> None:
    """Moves the smallest group that has a class to a part without that class."""
    size = counts.sum(axis=1)
    for column in range(has.shape[1]):
        for part in range(parts):
            held = np.stack([has[part_of == number].sum(axis=0) for number in range(parts)])
            if not held[part, column]:
                # From the part with most groups of this class; never the last group of a class in its part.
                spare = (~has | (held[part_of] > 1)).all(axis=1)
                candidates = np.flatnonzero(has[:, column] & spare)
                if len(candidates):
                    donors = part_of[candidates]
                    part_of[candidates[np.lexsort((size[candidates], donors, -held[donors, column]))[0]]] = part


def _check_enough(has: np.ndarray, parts: tuple[str, ...], classes: tuple[str, ...], where: str) -> None:
    for label, groups in zip(classes, has.sum(axis=0), strict=True):
        if groups < len(parts):
            what = f"the parts {', '.join(parts)}" if len(parts) < 4 else "as many parts"
            raise UserError(
                f"Class '{label}' has {groups} patients in {where}; {what} need at least {len(parts)}. Add images of "
                "more patients, hold out another center, or name other classes in the pipeline file "
                "(classes: [...]).")
