"""BrEaST-Lesions-USG: a workbook of cases, images and masks in a folder beside it."""

import re
from pathlib import Path

import pandas as pd

from busfast.data.sources.common import Options, files_in, is_image, keep_present, make_table, subfolders
from busfast.data.sources.pairs import cell
from busfast.data.sources.sheets import read_sheet

TITLE = "BrEaST"
LOOKS = "BrEaST-Lesions-USG-clinical-data-*.xlsx"
PUBLISHED = {"normal": 4, "benign": 154, "malignant": 98}
NEEDED = ("CaseID", "Image_filename", "Mask_tumor_filename", "Mask_other_filename", "Classification")
KEPT = {"Age": "age", "BIRADS": "birads", "Diagnosis": "histology"}  # what other sets have, too, under the same name
NOTHING = ("not available", "not applicable", "none", "nan")


def is_set(folder: Path) -> bool:
    """Whether a folder is BrEaST-Lesions-USG."""
    return _workbook(folder) is not None


def read(root: Path, options: Options) -> pd.DataFrame:
    """Reads BrEaST-Lesions-USG: one image of each of 256 patients, of several Polish centers that are not told apart.

    Args:
        root: the folder that holds the workbook.
        options: see `Options`.

    Returns:
        See `make_table`; with the columns age, birads and histology ("" where not known), and mask_other: masks of
        lesions that are no tumors.

    Raises:
        UserError: openpyxl is not installed, a column or files are missing.

    Source: Pawlowska et al. 2024, Curated benchmark dataset for ultrasound based breast lesion analysis, Scientific
    Data 11, 148, doi 10.1038/s41597-024-02984-z.
    """
    file = _workbook(root)
    header, rows, notes = read_sheet(file, NEEDED)
    images = [path for folder in (*subfolders(root), root) for path in files_in(folder) if is_image(path.name)]
    places = {path.name: path.relative_to(root).as_posix() for path in images}
    first = images[0].parent.relative_to(root) if images else Path()
    def find(name: str) -> str:
        return places.get(name, (first / name).as_posix())
    def find_masks(names: str) -> str | tuple[str, ...]:
        # Several values in a cell of this workbook are separated by &.
        return cell(tuple(find(part.strip()) for part in re.split("[&;,]", _known(names)) if part.strip()))
    records = []
    for line, cells in rows:
        row = dict(zip(header, cells, strict=True))
        records.append((line, {
            "image": find(row["Image_filename"]), "label": row["Classification"], "center": TITLE,
            "patient": f"breast_{row['CaseID']}", "mask": find_masks(row["Mask_tumor_filename"]),
            "mask_other": find_masks(row["Mask_other_filename"]),
            **{name: _known(row.get(title, "")) for title, name in KEPT.items()}}))
    kept, missing = keep_present(records, root, file, options, masks=("mask", "mask_other"))
    return make_table(kept, root, options, [*notes, *missing], masks=("mask", "mask_other"))


def _known(value: str) -> str:
    return "" if value.lower() in NOTHING else value


def _workbook(folder: Path) -> Path | None:
    """The workbook that is called like the set's; of several, the last by name."""
    found = [path for path in files_in(folder)
             if path.suffix.lower() == ".xlsx" and path.name.lower().startswith("breast-lesions")]
    return found[-1] if found else None
