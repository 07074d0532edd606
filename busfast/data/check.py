"""Looks at every image of a table before training: a broken one is found now and not in epoch 7, and copies are."""

from pathlib import Path

import pandas as pd

from busfast.data.duplicate_pairs import audit_file, drop_different, find_duplicates, read_decisions
from busfast.data.fingerprint import fingerprint_images
from busfast.data.paths import image_paths
from busfast.errors import UserError
from busfast.text import counted


def check_images(table: pd.DataFrame) -> pd.DataFrame:
    """Makes sure that each image of a table decodes to its last pixel; finds copies among them.

    Args:
        table: as `read_table` returns it.

    Returns:
        The pairs of copies (see `find_duplicates`), without those that a person has found different.

    Raises:
        UserError: names up to five of the files that do not decode, with the reason.
    """
    prints = fingerprint_images(image_paths(table))
    bad = table["image"][(prints["reason"] != "").to_numpy()]
    if len(bad):
        shown = "\n".join(f"  {name}: {prints['reason'][row]}" for row, name in bad.head(5).items())
        more = f"\n  and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise UserError(f"{len(bad)} of {len(table)} images in {table.attrs['root']} cannot be decoded:\n{shown}{more}"
                        "\nReplace these files, remove their rows from the table, or let busfast leave them out: "
                        "python -m busfast audit --data=FOLDER --quarantine")
    file = table.attrs.get("file") or Path(table.attrs["root"], "table.csv")
    decisions = read_decisions(audit_file(file))
    duplicates = drop_different(find_duplicates(table, prints), decisions)
    print(f"  every one of the {len(table)} images decodes", flush=True)
    for note in format_duplicates(table, duplicates):
        print(f"  {note}", flush=True)
    return duplicates


def format_duplicates(table: pd.DataFrame, duplicates: pd.DataFrame) -> list[str]:
    """Says in words how many copies there are, and which of them have different labels."""
    if duplicates.empty:
        return []
    label = table["label"].to_numpy()
    kinds = duplicates["kind"].value_counts()
    found = [counted(kinds[kind], f"{kind} pair") for kind in ("identical", "near-duplicate") if kind in kinds]
    notes = [f"{', '.join(found)}: each stays on one side of a split (to look at them: python -m busfast audit)"]
    conflicts = duplicates[(label[duplicates["a"]] != label[duplicates["b"]]) & (duplicates["kind"] == "identical")]
    for pair in conflicts.head(3).itertuples():
        notes.append(f"warning: identical images with different labels: {pair.image} ({label[pair.a]}), {pair.other} "
                     f"({label[pair.b]})")
    if len(conflicts) > 3:
        notes.append(f"warning: and {len(conflicts) - 3} more such pairs")
    return notes
