"""A CSV file or workbook of the user's own, with columns of any names."""

import difflib
import ntpath
import os
import posixpath
from pathlib import Path

import pandas as pd

from busfast.csvfile import Rows
from busfast.data.images import SUFFIXES as IMAGES
from busfast.data.sources.common import Options, files_in, is_image, keep_present, make_table
from busfast.data.sources.dicom_tags import is_dicom, read_tags
from busfast.data.sources.sheets import read_sheet
from busfast.data.table import OPTIONAL, REQUIRED
from busfast.errors import UserError, choose

TITLE = "CSV"
LOOKS = "one CSV file with a row for each image"
PUBLISHED: dict[str, int] = {}
SUFFIXES = (".csv", ".tsv", ".xlsx")


def is_set(folder: Path) -> bool:
    """Whether a folder holds exactly one CSV file (or workbook)."""
    return len(tables_in(folder)) == 1


def tables_in(folder: Path) -> list[Path]:
    """The CSV files in a folder, or the other tables where there are none."""
    found = [path for path in files_in(folder) if path.suffix.lower() in SUFFIXES and not path.name.startswith("~")]
    return [path for path in found if path.suffix.lower() == ".csv"] or found


def names_images(file: Path) -> bool:
    """Whether a CSV file begins with rows that name images."""
    try:
        with open(file, "rb") as opened:
            first = opened.read(2_000).lower()
    except OSError:
        return False
    return any(suffix.encode() in first for suffix in IMAGES)


def read(root: Path, options: Options) -> pd.DataFrame:
    """Reads a table of the user's own.

    Args:
        root: the CSV file or workbook, or a folder with exactly one.
        options: see `Options`; `columns` maps names of busfast to those of the file where they differ.

    Returns:
        See `make_table`; all other columns are kept.

    Raises:
        UserError: a column is unknown or missing, a cell is empty, a file is missing, named twice or no image.
    """
    file = _find(root)
    root = file.parent
    read = read_sheet(file, ())
    names, notes = _name_columns(read, file, options)
    records, slashed = [], 0
    for line, cells in read.rows:
        row = dict(zip(names, cells, strict=True))
        for name in REQUIRED:
            if not row[name]:
                raise UserError(f"{file}, row {line}, column {read.header[names.index(name)]}: the cell is empty. Fill "
                                "it or remove the row.")
        for name in ("image", "mask"):
            if row.get(name):
                where = f"{file}, row {line}, column {read.header[names.index(name)]}"
                found = _relative(row[name], root, where)
                if options.files:
                    _check_kind(root / found, where, mask=name == "mask")
                slashed += "\\" in row[name] and "\\" not in found
                row[name] = found
        records.append((line, {"mask": ""} | row))
    if slashed:
        notes.append(f"{slashed} paths are written with \\ and read with /")
    kept, missing = keep_present(records, root, file, options)
    dicom = [row["image"] for row in kept if not is_image(row["image"])] if options.files else []
    tags = read_tags(root, dicom, options)
    kept = [row for row in kept if row["image"] not in tags.others]
    if options.prefix and "patient" in names:
        notes.append(f"patient ids get '{options.prefix}' in front, since several sources are joined")
    for row in kept:
        own = row.get("patient", "")
        row["patient"] = options.prefix + own if own else tags.patients.get(row["image"], "")
        row["center"] = tags.centers.get(row["image"], "") or row.get("center", "")
    return make_table(kept, root, options, [*read.notes, *notes, *missing, *tags.notes], dicom=tags.patients)


def _find(path: Path) -> Path:
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise UserError(f"{path} is neither a CSV file nor a workbook ({', '.join(SUFFIXES)}). Save it as CSV.")
        return path
    tables = tables_in(path)
    if len(tables) != 1:
        found = ", ".join(table.name for table in tables[:5]) or "none"
        found += f" and {len(tables) - 5} more" if len(tables) > 5 else ""
        raise UserError(f"{path} must hold exactly one CSV file (found: {found}). Name the file: "
                        f"--path={path / 'FILE.csv'}")
    return tables[0]


def _name_columns(read: Rows, file: Path, options: Options) -> tuple[list[str], list[str]]:
    """Returns the name that each column gets, and notes."""
    ours: dict[str, int] = {}  # name of busfast -> number of the column
    for name, title in (options.columns or {}).items():
        choose("column of busfast", name, (*REQUIRED, *OPTIONAL, "group"))
        if title not in read.header:
            near = difflib.get_close_matches(str(title), read.header, n=1, cutoff=0.4)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise UserError(f"{file}, row 1: there is no column '{title}' (asked for as {name}).{hint} Found: "
                            f"{', '.join(read.header)}.")
        ours[name] = read.header.index(title)
    if len(set(ours.values())) < len(ours):
        raise UserError(f"--columns gives one column of {file} two names: {dict(options.columns)}.")
    for name in (*REQUIRED, *OPTIONAL):
        alike = [title for title in read.header if title.lower() == name]
        if name not in ours and alike and read.header.index(alike[0]) not in ours.values():
            if len(alike) > 1 and name not in alike:
                raise UserError(f"{file}, row 1: {' and '.join(alike)} may both be meant by {name}. Say which: "
                                f"--columns={name}={alike[0]}")
            ours[name] = read.header.index(name if name in alike else alike[0])
    for name in REQUIRED:
        if name not in ours:
            raise UserError(f"{file}, row 1: no column is called '{name}' (found: {', '.join(read.header)}). Say which "
                            f"one it is: --columns={name}=COLUMN")
    names = list(read.header)
    for place, title in enumerate(names):
        if title in ours and ours[title] != place:  # their 'label' is not what the user named as label
            names[place] = f"original_{title}"
            while names[place] in read.header:
                names[place] = f"original_{names[place]}"
    for name, place in ours.items():
        names[place] = name
    renamed = [f"{title} as {name}" for title, name in zip(read.header, names, strict=True) if title != name]
    kept = [name for place, name in enumerate(names) if place not in ours.values()]
    notes = [f"columns read: {', '.join(renamed)}"] if renamed else []
    return names, [*notes, f"other columns, kept: {', '.join(kept)}"] if kept else notes


def _relative(value: str, root: Path, where: str) -> str:
    """A path as the file gives it -> relative to its folder, with /."""
    slashed = value.replace("\\", "/")
    if "\\" in value and not (root / value).exists():
        value = slashed
    if ntpath.splitdrive(value)[0] or os.path.isabs(value):
        inside = os.path.isabs(value) and os.path.relpath(os.path.realpath(value), os.path.realpath(root))
        if not inside or inside.startswith(".."):
            raise UserError(f"{where}: '{value}' is an absolute path outside {root}. Write paths relative to that "
                            "folder, or put the file into the folder that holds the images.")
        return inside.replace(os.sep, "/")
    value = posixpath.normpath(value)
    if value == ".." or value.startswith("../"):
        raise UserError(f"{where}: '{value}' leads out of {root}. Put the file into the folder that holds the images.")
    return value


def _check_kind(path: Path, where: str, *, mask: bool) -> None:
    """Raises UserError if a file is there and is none that can be used."""
    known = is_image(path.name) or (path.suffix == ".json" if mask else is_dicom(path))
    if not known and path.is_file():
        raise UserError(f"{where}: {path} is neither an image ({', '.join(IMAGES)}) nor "
                        f"{'a LabelMe file (.json)' if mask else 'DICOM'}. Remove the row.")
