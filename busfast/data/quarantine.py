"""Writes a copy of a table without unusable images, beside the original; deletes and moves nothing."""

import os
from pathlib import Path

import numpy as np
import pandas as pd

from busfast.csvfile import read_rows, write_csv
from busfast.data.audit import Audit
from busfast.data.duplicate_pairs import AUDIT_FILE
from busfast.data.groups import connected
from busfast.data.paths import SOURCES_FILE, read_source_folders
from busfast.data.table import LEFT_OUT, Table
from busfast.errors import UserError
from busfast.files import make_folder

BROKEN = ("missing", "unreadable", "constant")
LEFT_OUT_FILE = "left_out.csv"  # beside a clean table; training writes what it leaves out into a file of this name, too


def clean_folder(home: Path) -> Path:
    """Returns the folder for the clean table of a data set, NAME-clean beside `home`; UserError if it is not empty."""
    out = home.with_name(f"{home.name}-clean")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} already exists, and busfast does not overwrite it. Move or delete it.")
    return out


def find_broken(audit: Audit) -> pd.Series:
    """Returns image -> why it is left out: it cannot be read, is constant, or is identical to another.

    Of identical images, one stays if all have the same label, and none if the labels differ: one of them is wrong.
    """
    reasons: dict[str, str] = {}
    for row in audit.findings.itertuples():
        if row.finding in BROKEN:
            reasons[row.image] = f"{row.finding}: {row.detail}"
    identical = audit.findings[audit.findings["finding"] == "identical"]
    label = dict(zip(audit.table["image"], audit.table["label"], strict=True))
    names, codes = np.unique(np.concatenate([identical["image"], identical["other"]]).astype(str), return_inverse=True)
    chains = connected(len(names), *codes.reshape(2, -1))
    for _, images in pd.Series(names, dtype=object).groupby(chains):
        images = images.tolist()
        labels = sorted({label[image] for image in images})
        for image in images[len(labels) == 1:]:
            reasons[image] = (f"identical to {images[0]}" if len(labels) == 1 else
                              f"identical images with different labels ({', '.join(labels)}): {', '.join(images)}")
    return pd.Series(reasons, dtype=object)


def write_clean(audit: Audit, out: Path) -> tuple[Path, int]:
    """Writes the clean table, `out/table.csv`, beside sources.csv (the images stay where they are), left_out.csv (the
    other rows, and why) and the audit's decisions; returns it, and the number of rows left out.
    """
    reasons, table = find_broken(audit), audit.table
    broken = table["image"].isin(reasons.index)
    folders = {".": audit.root} | read_source_folders(audit.root)
    sources = pd.DataFrame({"name": list(folders), "folder": [os.path.abspath(path) for path in folders.values()]})
    make_folder(out)
    write_csv(sources, out / SOURCES_FILE)
    left = table[broken].copy()
    left.insert(1, "left_out", left["image"].map(reasons))
    write_csv(left, out / LEFT_OUT_FILE)
    decided = audit.findings[audit.findings["decision"] != ""]
    if len(decided):
        (out / AUDIT_FILE).parent.mkdir()
        write_csv(decided, out / AUDIT_FILE)
    write_csv(table[~broken], out / "table.csv")  # last: its presence marks the folder as complete
    return out / "table.csv", int(broken.sum())


def find_left_out(table: Table) -> pd.DataFrame:
    """Returns what is missing in a table, and why (columns `LEFT_OUT`): what `write_clean` left out of its file, and
    what was left out since."""
    found = [pd.DataFrame(columns=LEFT_OUT, dtype=object)] + ([] if table.left_out is None else [table.left_out])
    file = table.file and table.file.parent / LEFT_OUT_FILE
    if file and file.is_file():
        header, rows, _ = read_rows(file, (), empty=True)
        quarantined = pd.DataFrame([cells for _, cells in rows], columns=header, dtype=object)
        if {"image", "left_out"} <= {*header}:  # else another tool wrote it
            found.append(quarantined.rename(columns={"left_out": "reason"}).reindex(columns=LEFT_OUT, fill_value=""))
    return pd.concat(found, ignore_index=True)
