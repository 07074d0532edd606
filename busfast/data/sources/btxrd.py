"""BTXRD: bone tumors in radiographs of three centers; dataset.csv or dataset.xlsx, images, LabelMe annotations."""

from pathlib import Path, PurePosixPath

import pandas as pd

from busfast.data.sources.common import Options, keep_present, make_table
from busfast.data.sources.listing import first_line_has
from busfast.data.sources.sheets import read_sheet
from busfast.errors import UserError

TITLE = "BTXRD"
LOOKS = "dataset.csv or dataset.xlsx with the columns image_id, tumor, benign, malignant; images; Annotations"
PUBLISHED = {"normal": 1879, "benign": 1525, "malignant": 342}
NEEDED = ("image_id", "center", "tumor", "benign", "malignant")
VIEWS = ("frontal", "lateral", "oblique")
LABELS = {("0", "0", "0"): "normal", ("1", "1", "0"): "benign", ("1", "0", "1"): "malignant"}


def is_set(folder: Path) -> bool:
    """Returns whether a folder is BTXRD."""
    file = _table(folder)
    if file is None or file.suffix == ".xlsx":  # not opened: that needs an optional library
        return file is not None
    return first_line_has(file, NEEDED)


def read(root: Path, options: Options) -> pd.DataFrame:
    """Reads BTXRD: the label from the flags tumor, benign and malignant; masks are outlines to be drawn.

    Published images normal/benign/malignant by center: 1593/1110/235 (1), 259/214/76 (2), 27/201/31 (3). There are no
    patient ids, but 728 of the 1,867 images of tumors equal the previous one in everything but the view: age, sex,
    center, site and diagnosis (when shuffled within center and class, 3 to 12 do). They are most likely of the same
    patient, so they share a `group`. Keeps all 37 columns of the set.

    Source: Yao et al. 2025, A radiograph dataset for the classification, localization, and segmentation of primary
    bone tumors, Scientific Data 12, 88, doi 10.1038/s41597-024-04311-y.
    """
    file = _table(root)
    header, rows, notes = read_sheet(file, NEEDED)
    outlines = {path.stem for path in (root / "Annotations").glob("*.json")} if options.files else set()
    records, previous, group, same_patient = [], (), "", 0
    for line, cells in rows:
        row = dict(zip(header, cells, strict=True))
        flags = tuple(_integer(row[name]) for name in ("tumor", "benign", "malignant"))
        if flags not in LABELS:
            raise UserError(f"{file}, row {line}, columns tumor, benign, malignant: {', '.join(flags)} contradict each "
                            "other. They must be 0, 0, 0 (normal), 1, 1, 0 (benign) or 1, 0, 1 (malignant).")
        stem = PurePosixPath(row["image_id"]).stem
        facts = tuple(value for key, value in row.items() if key not in ("image_id", *VIEWS))
        if facts != previous:
            group = f"neighbours of {stem}"
        elif row.get("age"):
            same_patient += 1
        previous = facts
        records.append((line, row | {
            "image": f"images/{row['image_id']}", "label": LABELS[flags], "center": _integer(row["center"]),
            "patient": "", "device": "", "mask": f"Annotations/{stem}.json" if stem in outlines else "",
            "group": group if row.get("age") else ""}))
    if same_patient:
        notes.append(f"no patient ids, but {same_patient} images of {file.name} equal the previous one in all but the "
                     "view: they are treated as one patient (column group)")
    kept, missing = keep_present(records, root, file, options)
    if options.files:
        lesions = [row for row in kept if row["label"] != "normal"]
        if without_mask := sum(not row["mask"] for row in lesions):
            missing.append(f"{without_mask} of {len(lesions)} images of tumors have no annotation in Annotations")
    return make_table(kept, root, options, [*notes, *missing])


def _table(folder: Path) -> Path | None:
    return next((path for path in (folder / "dataset.csv", folder / "dataset.xlsx") if path.is_file()), None)


def _integer(number: str) -> str:
    """Returns "1" for "1.0", which spreadsheets write."""
    return number[:-2] if number.endswith(".0") else number
