"""What a person decided about the labels of images, in labels.csv; train heeds it, except in the test part."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from busfast.csvfile import read_rows
from busfast.data.duplicate_pairs import audit_file
from busfast.data.labels import match_label
from busfast.data.split import UNUSED, Split
from busfast.data.table import Table
from busfast.errors import UserError
from busfast.text import counted, listed

FILE = "labels.csv"
DROP, KEEP = "drop", "keep"  # any other decision is the right label


def labels_file(table: Table) -> Path | None:
    """Returns where the suspected labels of a table are listed; None if that folder belongs to another data set."""
    audit = audit_file(table.file or table.root / "table.csv")
    return audit and audit.with_name(FILE)


def read_label_decisions(file: Path | None, classes: Sequence[str]) -> dict[str, str]:
    """Returns image -> drop, keep or one of `classes`, from the column `decision`, which a person fills in.
    Empty if there is no file; UserError if a decision is none of these, or an image has two.
    """
    if file is None or not file.is_file():
        return {}
    header, rows, _ = read_rows(file, ("image", "decision"), empty=True)
    decisions: dict[str, str] = {}
    for line, cells in rows:
        image, value = cells[header.index("image")], cells[header.index("decision")]
        if not value:
            continue
        try:
            word = value.lower() if value.lower() in (DROP, KEEP) else match_label(value, tuple(classes))
        except UserError:
            raise UserError(f"{file}, row {line}, column decision: '{value}' is unknown. Write {DROP}, {KEEP}, the "
                            f"right label ({listed(classes)}), or nothing.") from None
        if decisions.setdefault(image, word) != word:
            raise UserError(f"{file}, row {line}, column decision: {image} has another decision, "
                            f"'{decisions[image]}', above. Clear one of them.")
    return decisions


def heed_decisions(split: Split, file: Path | None, decisions: Mapping[str, str]) -> Split:
    """Corrects labels in the training and validation parts of a split, and takes what is to be dropped out of them.

    The test part is never cleaned: a score on labels that were chosen with the help of a model would flatter models.
    What was changed is a note and, with the SHA-256 of `file`, the split's `cleaned`.

    Raises:
        UserError: no image of a class is left to train or validate on.
    """
    if not decisions:
        return split
    rows = split.rows
    decided, learned = rows["image"].map(lambda name: decisions.get(name, "")), rows["part"].isin(("train", "valid"))
    drop = learned & (decided == DROP)
    correct = learned & ~decided.isin(("", KEEP, DROP)) & (decided != rows["label"])
    tested = (rows["part"] == "test") & ~decided.isin(("", KEEP)) & (decided != rows["label"])
    rows = rows.assign(part=rows["part"].mask(drop, UNUSED), label=rows["label"].mask(correct, decided))
    for part in ("train", "valid"):
        if missing := {*split.rows["label"][split.rows["part"] == part]} - {*rows["label"][rows["part"] == part]}:
            raise UserError(f"With the decisions in {file}, the {part} part has no {', '.join(sorted(missing))} image. "
                            "Change some of them, or the split.")
    note = (f"labels: {file}: {counted(int(drop.sum()), 'image')} of train and valid dropped, "
            f"{counted(int(correct.sum()), 'label')} corrected; {counted(int(tested.sum()), 'decision')} not heeded, "
            "as the test part keeps the given labels")
    cleaned = {"file": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "dropped": int(drop.sum()),
               "corrected": int(correct.sum()), "kept_in_test": int(tested.sum())}
    return replace(split, rows=rows, notes=(*split.notes, note), cleaned=cleaned)
