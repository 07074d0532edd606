"""BrEaST-Lesions-USG: a workbook of cases, with images and masks in a folder beside it."""

import re
from pathlib import Path

import pandas as pd

from busfast.data.sources.common import Options, table_from_rows
from busfast.data.sources.listing import files_in, is_image, subfolders
from busfast.data.sources.pairs import cell
from busfast.data.sources.sheets import read_sheet

TITLE = "BrEaST"
LOOKS = "BrEaST-Lesions-USG-clinical-data-*.xlsx"
PUBLISHED = {"normal": 4, "benign": 154, "malignant": 98}
NEEDED = ("CaseID", "Image_filename", "Mask_tumor_filename", "Mask_other_filename", "Classification")
KEPT = {"Age": "age", "BIRADS": "birads", "Diagnosis": "histology"}  # columns that other sets have under these names
EMPTY = ("not available", "not applicable", "none", "nan")


def is_set(folder: Path) -> bool:
    """Returns whether a folder is BrEaST-Lesions-USG."""
    return _workbook(folder) is not None


def read(root: Path, options: Options) -> pd.DataFrame:
    """Reads BrEaST-Lesions-USG: one image of each of 256 patients; its Polish centers are not distinguished.

    Adds the columns age, birads and histology ("" if unknown), and mask_other: masks of lesions that are not tumors.

    Source: Pawlowska et al. 2024, Curated benchmark dataset for ultrasound based breast lesion analysis, Scientific
    Data 11, 148, doi 10.1038/s41597-024-02984-z.
    """
    file = _workbook(root)
    images = [path for folder in (*subfolders(root), root) for path in files_in(folder) if is_image(path.name)]
    paths = {path.name: path.relative_to(root).as_posix() for path in images}
    folder = images[0].parent.relative_to(root) if images else Path()

    def find(name: str) -> str:
        return paths.get(name, (folder / name).as_posix())

    def find_masks(names: str) -> str | tuple[str, ...]:
        # This workbook separates several values in a cell by &.
        return cell(tuple(find(part.strip()) for part in re.split("[&;,]", _value(names)) if part.strip()))

    return table_from_rows(read_sheet(file, NEEDED), lambda row: {
        "image": find(row["Image_filename"]), "label": row["Classification"], "center": TITLE,
        "patient": f"breast_{row['CaseID']}", "mask": find_masks(row["Mask_tumor_filename"]),
        "mask_other": find_masks(row["Mask_other_filename"]),
        **{name: _value(row.get(title, "")) for title, name in KEPT.items()}},
        root, file, options, masks=("mask", "mask_other"))


def _value(text: str) -> str:
    return "" if text.lower() in EMPTY else text


def _workbook(folder: Path) -> Path | None:
    """Returns the workbook with the name of the set's; of several, the last by name."""
    workbooks = [path for path in files_in(folder)
                 if path.suffix.lower() == ".xlsx" and path.name.lower().startswith("breast-lesions")]
    return workbooks[-1] if workbooks else None
