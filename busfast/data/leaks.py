"""Leaks: patients, groups and duplicates that are in several parts of a split."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from busfast.data.groups import connected, group_names
from busfast.data.split import PARTS, UNUSED, Split
from busfast.data.table import as_table
from busfast.errors import UserError
from busfast.text import counted

COLUMNS = ["leak", "image", "part", "other", "other_part"]
NOUNS = {"same file": "file", "patient": "patient", "group": "group", "identical": "pair of identical images",
         "near-duplicate": "pair of near-duplicates"}


def find_leaks(split: Split | pd.DataFrame, duplicates: pd.DataFrame) -> pd.DataFrame:
    """Returns a row (`COLUMNS`) per leak of a split; `duplicates` has columns image, other, kind.

    A patient (a group, a file) in several parts is one row, with an image of two of them; so is a chain of duplicates
    whose ends are in different parts although no listed pair is.
    """
    rows = as_table(split).rows
    used = rows[rows["part"].isin(PARTS)].reset_index(drop=True)
    leaks = _in_several_parts(used, used["image"], "same file")
    patient = ("patient " + used["patient"] + " of center " + used["center"]).where(used["patient"] != "", "")
    leaks += _in_several_parts(used, patient, "patient") + _duplicates(used, duplicates)
    if "group" in used:
        leaks += _in_several_parts(used, used["group"], "group")
    return pd.DataFrame(leaks, columns=COLUMNS)


def leave_out_leaks(split: Split, classes: Sequence[str]) -> Split:
    """Makes those images unused that have a duplicate, or one of their patient or group, in a later part: of training
    in validation or test, of validation in test. The test part stays as it came, and scores compare with those of
    others. UserError if that leaves training or validation without a class.
    """
    rows = split.rows
    rank = rows["part"].map({part: number for number, part in enumerate(PARTS)}).fillna(-1)
    out = (rank >= 0) & (rank < rank.groupby(group_names(rows, across_centers=False)).transform("max"))
    if not out.any():
        return split
    kept = rows["part"].mask(out, UNUSED)
    counts = ", ".join(f"{number} of {part}" for part, number in rows["part"][out].value_counts().items())
    note = (f"{counted(int(out.sum()), 'image')} left out ({counts}): a duplicate, or another image of the patient, is "
            f"in a later part (such as {rows['image'][out].iloc[0]})")
    for part in PARTS[:2]:
        if lacking := [name for name in classes if not ((kept == part) & (rows["label"] == name)).any()]:
            raise UserError(f"The split that came with the images leaks, and {note}. Without them, {part} has no "
                            f"{', '.join(lacking)}. Use --split=stratified, or train anyway, with the run marked: "
                            "--allow-leaks.")
    return replace(split, rows=rows.assign(part=kept), notes=(*split.notes, note))


def check_leaks(leaks: pd.DataFrame, allow: bool) -> None:
    """Raises UserError, with up to ten leaks, if a split leaks; if that is allowed, prints it as a warning."""
    if leaks.empty:
        return
    shown = [f"  {row.leak}: {row.image} ({row.part}), {row.other} ({row.other_part})"
             for row in leaks.head(10).itertuples()]
    if len(leaks) > 10:
        shown.append(f"  and {len(leaks) - 10} more; python -m busfast audit --split=... writes all to leaks.csv")
    text = f"This split leaks: {format_leaks(leaks)} on two sides.\n" + "\n".join(shown)
    if not allow:
        raise UserError(f"{text}\nScores of such a split are too good. Let busfast split (--split=stratified), correct "
                        "the lists, or train anyway, with the run marked: --allow-leaks.")
    print(f"warning: {text}\nTraining anyway (--allow-leaks); the run is marked.")


def format_leaks(leaks: pd.DataFrame) -> str:
    """Returns the number of leaks, such as "3 patients, 12 pairs of near-duplicates"."""
    counts = leaks["leak"].value_counts()
    return ", ".join(counted(counts[kind], noun) for kind, noun in NOUNS.items() if kind in counts)


def _in_several_parts(table: pd.DataFrame, keys: pd.Series, kind: str) -> list[tuple]:
    """Returns a leak for each key (except "") with rows in several parts."""
    keys = keys[keys != ""].rename("key")
    first = table.loc[keys.index].groupby([keys, "part"], sort=True)["image"].first().reset_index()
    result = []
    for _, rows in first[first["key"].duplicated(keep=False)].groupby("key"):
        order = sorted(rows.itertuples(), key=lambda row: PARTS.index(row.part))
        result.append((kind, order[0].image, order[0].part, order[-1].image, order[-1].part))
    return result


def _duplicates(used: pd.DataFrame, pairs: pd.DataFrame) -> list[tuple]:
    if pairs.empty:
        return []
    images, codes = np.unique(np.concatenate([pairs["image"], pairs["other"]]).astype(str), return_inverse=True)
    a, b = codes[:len(pairs)], codes[len(pairs):]
    chain = dict(zip(images, connected(len(images), a, b), strict=True))
    sides: dict[str, list[str]] = {}
    for image, part in zip(used["image"], used["part"], strict=True):
        sides.setdefault(image, []).append(part)
    rows, shown = [], set()
    for pair in pairs.itertuples():
        for part in sides.get(pair.image, []):
            for other in sides.get(pair.other, []):
                if part != other:
                    rows.append((pair.kind, pair.image, part, pair.other, other))
                    shown.add(chain[pair.image])
    members = used[used["image"].isin(chain)]
    chains = members["image"].map(chain)
    rest = members[~chains.isin(shown)]
    return rows + _in_several_parts(rest, chains[~chains.isin(shown)].astype(str), "near-duplicate")
