"""Reads every image of a table before training, so that broken ones are found now and not in epoch 7."""

import shlex
from dataclasses import replace
from pathlib import Path

import pandas as pd

from busfast.data.duplicate_pairs import audit_file, drop_different, find_duplicates, read_decisions
from busfast.data.fingerprint import CUT, fingerprint_images
from busfast.data.split import Split
from busfast.data.table import Table
from busfast.errors import UserError
from busfast.text import counted


def check_images(table: Table) -> pd.DataFrame:
    """Makes sure that each image of a table decodes to its last pixel; finds duplicates among them.

    Args:
        table: as `read_table` returns it.

    Returns:
        The pairs of duplicates (see `find_duplicates`), without those that a person has found different.

    Raises:
        UserError: names up to five of the files that do not decode, with the reason.
    """
    return inspect_images(table)[1]


def inspect_images(table: Table) -> tuple[Table, pd.DataFrame]:
    """Does what `check_images` does; returns the table with the hashes of its pixels, too."""
    prints, images = fingerprint_table(table), table.rows["image"]
    decisions = read_decisions(audit_file(table.file or table.root / "table.csv"))
    duplicates = drop_different(find_duplicates(table.rows, prints), decisions)
    print(f"  all {len(table)} images decode")
    for note in (*format_notes(table, prints), *format_duplicates(table, duplicates)):
        print(f"  {note}")
    return replace(table, pixels=dict(zip(images, prints["pixels"], strict=True))), duplicates


def fingerprint_table(table: Table) -> pd.DataFrame:
    """Returns the fingerprints of a table's images; raises as `check_images`."""
    prints = fingerprint_images(table.image_paths())
    bad = table.rows["image"][(prints["reason"] != "").to_numpy()]
    if len(bad):
        shown = "\n".join(f"  {name}: {prints['reason'][row]}" for row, name in bad.head(5).items())
        more = f"\n  and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise UserError(f"{len(bad)} of {len(table)} images in {table.root} cannot be decoded:\n{shown}{more}"
                        "\nReplace these files, remove their rows from the table, or let busfast leave them out: "
                        f"{_audit_command(table)} --quarantine")
    return prints


def hash_pixels(split: Split) -> Split:
    """Returns a split with the hashes of its pixels, which are computed unless `inspect_images` has done so."""
    if split.pixels:
        return split
    pixels = fingerprint_images(split.image_paths())["pixels"]
    return replace(split, pixels=dict(zip(split.rows["image"], pixels, strict=True)))


def format_notes(table: Table, prints: pd.DataFrame) -> list[str]:
    """Returns what is odd about files that are read all the same, a line each: `prints` as of `fingerprint_images`."""
    cut, pages = prints["note"] == CUT, prints["note"].str.endswith(" pages")
    return [f"{counted(int(odd.sum()), 'file')} {text}, such as {table.rows['image'].iloc[int(odd.argmax())]}"
            for odd, text in ((pages, "of several pages: the first one is used"),
                              (cut, "cut off behind the last pixel (JPEG without an end marker)")) if odd.any()]


def format_duplicates(table: Table, duplicates: pd.DataFrame) -> list[str]:
    """Returns how many duplicates there are, and which of them have different labels, a line each."""
    if duplicates.empty:
        return []
    label, file = table.rows["label"].to_numpy(), table.file
    look = f"; to look at them: {_audit_command(table)}" if file else ""
    kinds = duplicates["kind"].value_counts()
    found = [counted(kinds[kind], f"{kind} pair") for kind in ("identical", "near-duplicate") if kind in kinds]
    notes = [f"{', '.join(found)}: each stays on one side of a split that busfast makes{look}"]
    conflicts = duplicates[(label[duplicates["a"]] != label[duplicates["b"]]) & (duplicates["kind"] == "identical")]
    for pair in conflicts.head(3).itertuples():
        notes.append(f"warning: identical images with different labels: {pair.image} ({label[pair.a]}), {pair.other} "
                     f"({label[pair.b]})")
    if len(conflicts) > 3:
        notes.append(f"warning: and {len(conflicts) - 3} more such pairs")
    return notes


def _audit_command(table: Table) -> str:
    """Returns the command that audits a table, or a folder of class folders."""
    file = table.file or Path("FOLDER")
    return f"python -m busfast audit --data={shlex.quote(str(file.parent if file.name == 'table.csv' else file))}"
