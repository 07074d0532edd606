"""A labelled set from elsewhere -> the images of it that a finished model can be scored on."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from busfast.data.check import fingerprint_table
from busfast.data.duplicate_pairs import find_duplicates
from busfast.data.fingerprint import fingerprint_images
from busfast.data.groups import add_groups, connected, group_names
from busfast.data.labels import plain, split_labels
from busfast.data.open_data import read_data
from busfast.data.split import Split, note_no_patient
from busfast.data.table import Table
from busfast.errors import UserError, suggest
from busfast.text import counted

NAMED = ["image", "label", "center", "patient"]  # columns of images that are left out
FOR_TRAINING = ("original_split", "class folders name no")  # words of notes about splits to train with


def read_set(data: str, classes: Sequence[str], delim: str = "") -> tuple[Table, pd.DataFrame, list[str]]:
    """Reads a labelled set that a model of `classes` is to be scored on; `delim`: see `read_data`.

    Returns:
        Its images whose labels are classes; the others (`NAMED`, reason, other); what a user should know.

    Raises:
        UserError: as `read_data`; a label that may be a misspelt class; no label that is a class.
    """
    table = read_data(data, label_delim=delim)
    names = {plain(name): name for name in classes}
    held = table.rows["label"].map(lambda label: split_labels(label, delim))
    unknown = Counter(one for labels in held for one in labels if plain(one) not in names)
    for label, count in unknown.items():
        if hint := suggest(label, classes):
            raise UserError(f"{data}: the model has no class '{label}' ({counted(count, 'image')}).{hint} Its classes: "
                            f"{', '.join(classes)}. Correct the label, or remove these images.")
    known = held.map(lambda labels: {names[plain(one)] for one in labels if plain(one) in names})
    keep = known.map(bool) | ~held.map(bool)  # an image of several labels may have none, but not only unknown ones
    others = ", ".join(f"{label} ({count})" for label, count in unknown.most_common())
    if not known.any():
        raise UserError(f"No image of {data} has a class of the model. Its classes: {', '.join(classes)}; the labels "
                        f"there: {others}. Write them as the model's classes.")
    rows = table.rows.assign(label=[delim.join(name for name in classes if name in labels) for labels in known])
    notes = [note for note in table.notes if not any(words in note for words in FOR_TRAINING)]
    if unknown:
        notes.append(f"labels that the model does not know: {others}; images with no other are left out")
    if "original_split" in rows:
        notes.append("the split that came with the set is not used: all of its images are scored")
    left_out = table.rows.loc[~keep, NAMED].assign(reason="unknown label", other="")
    return replace(table, rows=rows[keep].reset_index(drop=True)), left_out, notes


def leave_out_copies(table: Table, seen: Split | None) -> tuple[Table, pd.DataFrame, list[str]]:
    """Leaves out copies of the images that a model was trained and chosen with.

    Args:
        table: as `read_set` returns it.
        seen: the training and validation part; None: unknown.

    Returns:
        The other images, with groups (patients, duplicates) and the hashes of their pixels; the copies (`NAMED`,
        reason, other); what a user should know.

    Raises:
        UserError: an image does not decode.
    """
    prints, rows = fingerprint_table(table), table.rows
    pairs = find_duplicates(rows, prints)
    rows = add_groups(rows, pairs["a"], pairs["b"])
    unknown = note_no_patient(rows)
    rows["group"] = group_names(rows, across_centers=False)
    table = replace(table, rows=rows, pixels=dict(zip(rows["image"], prints["pixels"], strict=True)))
    if seen is None:
        return table, rows[:0][NAMED], [*unknown, "copies of images that trained the model were not looked for: a "
                                        "bundle does not have them (with its run at hand: --run=RUN)"]
    copies, notes = _find_copies(prints, seen)
    copy = (copies["other"] != "").to_numpy()
    counts = copies["reason"].value_counts()
    notes.append("left out as copies of training or validation images: "
                 + ", ".join(f"{counts.get(kind, 0)} {kind}" for kind in ("identical", "near-duplicate")))
    if same := int(rows["group"][~copy].isin(rows["group"][copy]).sum()):
        notes.append(f"{counted(same, 'other image')} of the same patients as these copies stay")
    known = set(zip(seen.rows["center"], seen.rows["patient"], strict=True))
    patients = {pair for pair in zip(rows["center"][~copy], rows["patient"][~copy], strict=True) if pair[1]} & known
    if patients:
        notes.append(f"{counted(len(patients), 'patient')} with the id and center of one that trained the model, such "
                     f"as {min(patients)[1]}: if they are the same people, these scores are too good")
    return (replace(table, rows=rows[~copy].reset_index(drop=True)), rows.loc[copy, NAMED].join(copies),
            [*unknown, *notes])


def _find_copies(prints: pd.DataFrame, seen: Split) -> tuple[pd.DataFrame, list[str]]:
    """Returns reason (identical, near-duplicate or "") and other (the image of `seen`) of each fingerprint; notes."""
    names, count = seen.rows["image"], len(prints)
    try:
        paths = seen.image_paths()
    except UserError:  # a folder that sources.csv names is gone
        paths = [seen.root / "gone"] * len(names)
    old = fingerprint_images(paths)
    both = pd.concat([prints, old], ignore_index=True)
    pairs = find_duplicates(pd.DataFrame({"image": both.index}), both)
    chain = connected(len(both), pairs["a"], pairs["b"])
    near = pd.Series(chain[:count]).map(dict(zip(chain[count:], names, strict=True)))
    hashes = seen.rows["pixels"] if "pixels" in seen.rows else old["pixels"]  # these need no file
    exact = prints["pixels"].map(dict(zip(hashes, names, strict=True))).where(prints["low"] < prints["high"])
    gone = int((old["reason"] != "").sum())
    notes = [f"{gone} of the {len(seen)} images that trained the model are not at hand, so near copies of them were "
             f"not looked for{'' if 'pixels' in seen.rows else ', nor exact ones'}"] if gone else []
    return pd.DataFrame({"reason": np.select([exact.notna(), near.notna()], ["identical", "near-duplicate"], ""),
                         "other": exact.fillna(near).fillna("")}), notes
