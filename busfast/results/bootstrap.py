"""Intervals by a bootstrap over patients, not images: the images of a patient are not independent."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

REPLICATES = 2000
LEVEL = 0.95
CELLS = 4_000_000  # images times replicates in one batch: bounds the memory
MIN_GROUPS = 5  # in a stratum; smaller ones are joined, since one of a single group would never vary
MIN_DEFINED = 0.9  # share of the replicates in which a score must be defined for an interval to be given


def draw_weights(groups: np.ndarray, strata: np.ndarray, replicates: int = REPLICATES,
                 seed: int = 0) -> Iterator[np.ndarray]:
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


def intervals(measure: Callable[[np.ndarray], dict[str, np.ndarray]], groups: np.ndarray, strata: np.ndarray,
              replicates: int = REPLICATES, seed: int = 0, biased: Sequence[str] = ()) -> pd.DataFrame:
    """Computes scores with percentile intervals.

    Args:
        measure: maps weights, (b, n), to the values, (b,), of each score by its name.
        groups, strata, replicates, seed: see `draw_weights`; no replicates, no intervals.
        biased: names of scores (0 or more) that a draw inflates because it repeats images; their interval is shifted by
            the distance of the draws' median from the estimate.

    Returns:
        A row per score, indexed by its name: estimate, low, high (95%; NaN where the score is undefined in a tenth of
        the replicates or more, or never varies, as where one patient has all images of a class).
    """
    groups = np.asarray(groups)
    estimate = pd.Series({name: values[0] for name, values in measure(np.ones((1, len(groups)))).items()})
    if not replicates:
        return pd.DataFrame({"estimate": estimate, "low": np.nan, "high": np.nan})
    drawn = pd.concat([pd.DataFrame(measure(weights)) for weights in draw_weights(groups, strata, replicates, seed)])
    low, high = bounds(drawn)
    for name in biased:
        off = drawn[name].median() - estimate[name]
        low[name], high[name] = max(0.0, low[name] - off), max(0.0, high[name] - off)
    defined = estimate.notna() & (high - low > 1e-12)
    return pd.DataFrame({"estimate": estimate, "low": low.where(defined), "high": high.where(defined)})


def bounds(drawn: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Returns the bounds of the middle 95% of each column; NaN where a tenth of its draws or more are undefined."""
    defined, tail = drawn.notna().mean() >= MIN_DEFINED, (1 - LEVEL) / 2
    return drawn.quantile(tail).where(defined), drawn.quantile(1 - tail).where(defined)


def widen(found: pd.DataFrame, counts: Mapping[str, float]) -> pd.DataFrame:
    """Gives a share of 0 or 1 the Wilson interval, since every draw of such images repeats the same value.

    Args:
        found: as `intervals` returns it; changed in place.
        counts: number of groups that each share is a share of.

    Source:
        Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    z2 = 1.959964**2
    for name, count in counts.items():
        if count and found.at[name, "estimate"] in (0.0, 1.0):
            edge = z2 / (count + z2)
            found.loc[name, ["low", "high"]] = (0.0, edge) if found.at[name, "estimate"] == 0 else (1 - edge, 1.0)
    return found
