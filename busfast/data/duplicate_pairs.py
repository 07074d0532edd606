"""The duplicates of a table, without those that a person has looked at and found different."""

from pathlib import Path

import numpy as np
import pandas as pd

from busfast.csvfile import read_rows
from busfast.data.duplicates import exact_duplicates, near_duplicates
from busfast.data.paths import home_of
from busfast.errors import UserError

AUDIT_FILE = "audit/audit.csv"
COLUMNS = ["a", "b", "image", "other", "kind", "similarity", "mirrored"]
DECISIONS = ("", "same", "different")
COLUMNS_READ = ("finding", "image", "other", "decision")
NO_DUPLICATES = pd.DataFrame({"a": np.empty(0, int), "b": np.empty(0, int)}).reindex(columns=COLUMNS)


def find_duplicates(table: pd.DataFrame, prints: pd.DataFrame) -> pd.DataFrame:
    """Finds the pairs of images that are (nearly) the same picture.

    Args:
        table: as `read_table` returns it.
        prints: fingerprints of its images, in order.

    Returns:
        A row a pair: a, b (positions), image, other (as in the table), kind (identical or near-duplicate), similarity
        (1: the same) and mirrored. k identical images are k - 1 pairs.
    """
    names = table["image"].to_numpy()
    exact = [(a, b) for group in exact_duplicates(prints) for a, b in zip(group, group[1:], strict=False)]
    a, b = np.array(exact, dtype=int).reshape(-1, 2).T
    identical = pd.DataFrame({"a": a, "b": b, "kind": "identical", "similarity": 1.0, "mirrored": False})
    near = near_duplicates(prints).assign(kind="near-duplicate")
    pixels = prints["pixels"].to_numpy()
    near = near[pixels[near["a"]] != pixels[near["b"]]]
    pairs = pd.concat([identical, near], ignore_index=True)
    pairs["image"], pairs["other"] = names[pairs["a"]], names[pairs["b"]]
    return pairs[COLUMNS]


def drop_different(duplicates: pd.DataFrame, decisions: dict[frozenset, str]) -> pd.DataFrame:
    """Leaves out the near-duplicates that a person has found to be different pictures."""
    keep = [kind == "identical" or decisions.get(frozenset(pair)) != "different"
            for kind, *pair in zip(duplicates["kind"], duplicates["image"], duplicates["other"], strict=True)]
    return duplicates[np.array(keep, dtype=bool)].reset_index(drop=True)


def audit_file(table_file: str | Path) -> Path | None:
    """Returns where the audit of a table is, if one was written; None: nowhere that is its own."""
    try:
        return home_of(table_file) / AUDIT_FILE
    except UserError:  # what is there is about another set of that name
        return None


def read_decisions(file: Path | None) -> dict[frozenset, str]:
    """Reads what a person wrote into the column `decision` of audit.csv.

    Returns:
        Pair of images -> same or different.

    Raises:
        UserError: another word stands there, or the file is no audit.
    """
    if file is None or not file.is_file():
        return {}
    header, rows, _ = read_rows(file, COLUMNS_READ, empty=True)
    finding, image, other, decision = (header.index(name) for name in COLUMNS_READ)
    decisions = {}
    for line, cells in rows:
        word = cells[decision].lower()
        if word not in DECISIONS:
            raise UserError(f"{file}, row {line}, column decision: '{cells[decision]}' is none of same, different, or "
                            "nothing.")
        if word == "different" and cells[finding] == "identical":
            raise UserError(f"{file}, row {line}, column decision: {cells[image]} and {cells[other]} have the same "
                            "pixels, and cannot be different pictures. Clear the cell.")
        if word:
            decisions[frozenset((cells[image], cells[other]))] = word
    return decisions
