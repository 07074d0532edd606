"""A table without what is broken, beside the old one: nothing is deleted, nothing is moved."""

import os
from pathlib import Path

import numpy as np
import pandas as pd

from busfast.csvfile import write_csv
from busfast.data.audit import Audit
from busfast.data.duplicate_pairs import AUDIT_FILE
from busfast.data.groups import connected
from busfast.data.paths import SOURCES_FILE, read_source_folders
from busfast.errors import UserError
from busfast.files import make_folder

BROKEN = ("missing", "unreadable", "constant", "link out of the folder")


def clean_folder(home: Path) -> Path:
    """Returns the folder for the clean table of a data set: NAME-clean beside what busfast writes about NAME.

    Raises:
        UserError: it is not empty.
    """
    out = home.with_name(f"{home.name}-clean")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is already there, and busfast does not overwrite it. Move it away, or delete it.")
    return out


def find_broken(audit: Audit) -> pd.Series:
    """Returns image -> why it is left out: it cannot be read, shows nothing, or is an identical copy of another.

    Of identical images with the same label one stays; of those with different labels none, for one label is wrong.
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
    """Writes `out/table.csv` without what is broken, `out/sources.csv` that says where the images lie (where they
    did), and `out/left_out.csv` with the rows that are not in it and why; what a person decided on goes along.

    Args:
        audit: what was found.
        out: as `clean_folder` returns it.

    Returns:
        The table and how many rows were left out.

    Raises:
        UserError: nothing can be written there.
    """
    reasons = find_broken(audit)
    table = audit.table
    broken = table["image"].isin(reasons.index)
    root = Path(table.attrs["root"])
    places = {".": root} | read_source_folders(root)
    listed = pd.DataFrame({"name": list(places), "folder": [os.path.abspath(folder) for folder in places.values()]})
    make_folder(out)
    write_csv(listed, out / SOURCES_FILE)
    left = table[broken].copy()
    left.insert(1, "left_out", left["image"].map(reasons))
    write_csv(left, out / "left_out.csv")
    decided = audit.findings[audit.findings["decision"] != ""]
    if len(decided):
        (out / AUDIT_FILE).parent.mkdir()
        write_csv(decided, out / AUDIT_FILE)
    write_csv(table[~broken], out / "table.csv")  # last: where it stands, all is there
    return out / "table.csv", int(broken.sum())

