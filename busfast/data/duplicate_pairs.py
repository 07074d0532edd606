"""The duplicates of a table, and what a person decided about them in audit.csv."""

from pathlib import Path

import numpy as np
import pandas as pd

from busfast.csvfile import read_rows
from busfast.data.duplicate_cache import cached_near_duplicates
from busfast.data.duplicates import exact_duplicates
from busfast.data.paths import home_of
from busfast.errors import UserError

AUDIT_FILE = "audit/audit.csv"
COLUMNS = ["a", "b", "image", "other", "kind", "similarity", "mirrored"]
DECISIONS = ("", "same", "different")
COLUMNS_READ = ("finding", "image", "other", "decision")
NO_DUPLICATES = pd.DataFrame({"a": np.empty(0, int), "b": np.empty(0, int)}).reindex(columns=COLUMNS)


def find_duplicates(table: pd.DataFrame, prints: pd.DataFrame) -> pd.DataFrame:
    """Finds pairs of images that show the same picture, by their fingerprints; k identical images are k - 1 pairs.
    `COLUMNS`: a, b are row positions; kind is identical or near-duplicate; similarity 1 is the same.
    """
    names = table["image"].to_numpy()
    exact = [(a, b) for group in exact_duplicates(prints) for a, b in zip(group, group[1:], strict=False)]
    a, b = np.array(exact, dtype=int).reshape(-1, 2).T
    identical = pd.DataFrame({"a": a, "b": b, "kind": "identical", "similarity": 1.0, "mirrored": False})
    near = cached_near_duplicates(prints).assign(kind="near-duplicate")
    pixels = prints["pixels"].to_numpy()
    near = near[pixels[near["a"]] != pixels[near["b"]]]
    pairs = pd.concat([identical, near], ignore_index=True)
    pairs["image"], pairs["other"] = names[pairs["a"]], names[pairs["b"]]
    return pairs[COLUMNS]


def drop_different(duplicates: pd.DataFrame, decisions: dict[frozenset, str]) -> pd.DataFrame:
    """Drops the near-duplicates that a person decided to be different pictures."""
    keep = [kind == "identical" or decisions.get(frozenset(pair)) != "different"
            for kind, *pair in zip(duplicates["kind"], duplicates["image"], duplicates["other"], strict=True)]
    return duplicates[np.array(keep, dtype=bool)].reset_index(drop=True)


def audit_file(table_file: str | Path) -> Path | None:
    """Returns where the audit of a table is written; None if that folder belongs to another data set."""
    try:
        return home_of(table_file) / AUDIT_FILE
    except UserError:
        return None


def read_decisions(file: Path | None) -> dict[frozenset, str]:
    """Returns pair of images -> same or different, from the column `decision` of audit.csv, which a person fills in.
    Empty if there is no file; UserError if a decision is neither.
    """
    if file is None or not file.is_file():
        return {}
    header, rows, _ = read_rows(file, COLUMNS_READ, empty=True)
    finding, image, other, decision = (header.index(name) for name in COLUMNS_READ)
    decisions = {}
    for line, cells in rows:
        value = cells[decision].lower()
        if value not in DECISIONS:
            raise UserError(f"{file}, row {line}, column decision: '{cells[decision]}' is unknown. Write same, "
                            "different, or nothing.")
        if value == "different" and cells[finding] == "identical":
            raise UserError(f"{file}, row {line}, column decision: {cells[image]} and {cells[other]} have the same "
                            "pixels, so they cannot be different. Clear the cell.")
        if value:
            decisions[frozenset((cells[image], cells[other]))] = value
    return decisions
