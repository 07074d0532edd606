"""Intervals by drawing patients again, not images: the images of a patient are no independent observations."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

REPLICATES = 2000
LEVEL = 0.95
CELLS = 4_000_000  # images times replicates that are worked on at once: bounds the memory
FEW = 5  # groups; a stratum of fewer is drawn together with others: one of a single group would never vary
LEAST = 0.9  # share of the replicates in which a score must be defined for an interval to be given


def draw_weights(groups: np.ndarray, strata: np.ndarray, replicates: int = REPLICATES,
                 seed: int = 0) -> Iterator[np.ndarray]:
    """Draws groups with replacement, within strata, so that hardly a replicate lacks a class that the images have.

    Args:
        groups: (n,), the group (patient) of each image.
        strata: (n,), anything that says which groups are alike (their labels); a group's stratum is the set of its
            images'. Strata of fewer than five groups are joined.
        replicates: how many.
        seed: of the draws.

    Yields:
        (b, n), how often each image counts, until there were `replicates` rows.
    """
    codes, names = pd.factorize(groups)
    sets = pd.Series(strata).groupby(codes).agg(lambda values: "\n".join(sorted(set(map(str, values)))))
    members = _join(sets.groupby(sets.to_numpy(), sort=True).indices.values())
    rng = np.random.default_rng(seed)
    at_once = max(1, CELLS // len(codes))
    for start in range(0, replicates, at_once):
        rows = min(at_once, replicates - start)
        counts = np.zeros((rows, len(names)))
        for of in members:
            drawn = rng.integers(0, len(of), (rows, len(of))) + len(of) * np.arange(rows)[:, None]
            counts[:, of] = np.bincount(drawn.ravel(), minlength=rows * len(of)).reshape(rows, -1)
        yield counts[:, codes]


def _join(members: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Joins strata, the smallest ones first, until each has `FEW` groups or there is but one."""
    members = sorted(members, key=len)
    while len(members) > 1 and len(members[0]) < FEW:
        members = sorted([np.concatenate(members[:2]), *members[2:]], key=len)
    return members


def intervals(measure: Callable[[np.ndarray], dict[str, np.ndarray]], groups: np.ndarray, strata: np.ndarray,
              replicates: int = REPLICATES, seed: int = 0, biased: Sequence[str] = ()) -> pd.DataFrame:
    """Computes scores with percentile intervals.

    Args:
        measure: weights, (b, n) -> name -> values, (b,).
        groups, strata, replicates, seed: as those of `draw_weights`.
        biased: names of scores, of 0 or more, that are larger in every draw because it repeats images; their interval
            is moved by as much as the draws' median is off the estimate.

    Returns:
        A row a score, indexed by its name: estimate, low, high (95%; NaN where the score is not defined in a tenth of
        the replicates or more, or never varies, as where one patient has all images of a class).
    """
    groups = np.asarray(groups)
    estimate = {name: values[0] for name, values in measure(np.ones((1, len(groups)))).items()}
    drawn = pd.concat([pd.DataFrame(measure(weights)) for weights in draw_weights(groups, strata, replicates, seed)])
    low, high = bounds(drawn)
    for name in biased:
        off = drawn[name].median() - estimate[name]
        low[name], high[name] = max(0.0, low[name] - off), max(0.0, high[name] - off)
    known = pd.Series(estimate).notna() & (high - low > 1e-12)
    return pd.DataFrame({"estimate": pd.Series(estimate), "low": low.where(known), "high": high.where(known)})


def bounds(drawn: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Returns what holds the middle 95% of each column's draws; NaN where a tenth of them or more are not defined."""
    known, tail = drawn.notna().mean() >= LEAST, (1 - LEVEL) / 2
    return drawn.quantile(tail).where(known), drawn.quantile(1 - tail).where(known)


def widen(found: pd.DataFrame, counts: Mapping[str, float]) -> pd.DataFrame:
    """Gives a share of 0 or 1 the Wilson interval: drawing again knows no other value than the one it saw.

    Args:
        found: as `intervals` returns it.
        counts: name of a share -> number of groups that it is a share of.

    Source:
        Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    z2 = 1.959964**2
    for name, count in counts.items():
        if count and found.at[name, "estimate"] in (0.0, 1.0):
            edge = z2 / (count + z2)
            found.loc[name, ["low", "high"]] = (0.0, edge) if found.at[name, "estimate"] == 0 else (1 - edge, 1.0)
    return found
