"""A user's CSV file or workbook, with any column names."""

import os
import posixpath
import re
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pandas as pd

from busfast.data.images import SUFFIXES as IMAGES
from busfast.data.paths import is_inside, path_problem
from busfast.data.sources.columns import join_one_hot, name_columns, read_parts
from busfast.data.sources.common import Options, keep_present, make_table
from busfast.data.sources.dicom_tags import is_dicom, read_tags
from busfast.data.sources.listing import files_in, is_image, subfolders
from busfast.data.sources.own_sheet import read_own_sheet
from busfast.data.table import REQUIRED
from busfast.errors import UserError
from busfast.text import counted

TITLE = "CSV"
LOOKS = "one CSV file with a row per image"
PUBLISHED: dict[str, int] = {}
SUFFIXES = (".csv", ".tsv", ".xlsx")
FILES = ("image", "mask")  # columns of paths
NUMBERED = ("label", "patient", "center", "device")  # columns in which pandas may write 25 as 25.0
WHOLE = re.compile(r"-?\d+(\.0+)?")
NOT_GIVEN = ("nan", "none", "null", "n/a", "<na>")  # as pandas and databases write an empty cell


def is_set(folder: Path) -> bool:
    """Returns whether a folder holds exactly one CSV file (or workbook)."""
    return len(tables_in(folder)) == 1


def tables_in(folder: Path) -> list[Path]:
    """Returns the CSV files in a folder; if there are none, its other tables."""
    tables = [path for path in files_in(folder) if path.suffix.lower() in SUFFIXES and not path.name.startswith("~")]
    return [path for path in tables if path.suffix.lower() == ".csv"] or tables


def names_images(file: Path) -> bool:
    """Returns whether the first rows of a CSV file name images, with their suffix, or without it if they lie in folders
    beside the file, or in those in them."""
    try:
        with open(file, "rb") as opened:
            start = opened.read(2_000).lower()
    except OSError:
        return False
    if any(suffix.encode() in start for suffix in (*IMAGES, ".dcm")):
        return True
    words, outer = set(re.split(r"[\s,;|\"/\\]+", start.decode("latin-1"))), subfolders(file.parent)
    return any(words & {path.stem.lower(), path.name.lower()}
               for folder in chain(outer, *map(subfolders, outer[:100])) for path in files_in(folder)[:1000]
               if is_image(path.name) or is_dicom(path))


def read(root: Path, options: Options) -> pd.DataFrame:
    """Reads a user's CSV file or workbook, or a folder with exactly one; keeps all columns."""
    file = _find(root)
    sheet, notes = join_one_hot(read_own_sheet(file, (options.columns or {}).values()), file, options)
    names, named = name_columns(sheet.header, file, options)
    parts, split_notes = read_parts(sheet, names, file, options)
    notes = [*sheet.notes, *named, *notes, *split_notes]
    rows = _without_end(sheet.rows, names.index("image"), notes)
    root, records, backslashes = Path(os.path.abspath(options.images or file.parent)), [], 0
    for line, cells in rows:
        row = {"mask": ""} | dict(zip(names, cells, strict=True))
        for name in REQUIRED:
            if row[name].lower() in ("", "nan") and not (name == "label" and options.label_delim):
                position = names.index(name)
                empty = sum(cells[position].lower() in ("", "nan") for _, cells in rows)
                raise UserError(f"{file}, row {line}, column {sheet.header[position]}: the cell is empty"
                                f"{row[name] and f' ({row[name]})'}, as in {counted(empty, 'row')} of {len(rows)}. "
                                "Fill it in or remove the row.")
        for name in FILES:
            if row[name]:
                path = _relative(row[name], root)
                if options.files:
                    _check_kind(root / path, f"{file}, row {line}, column {sheet.header[names.index(name)]}",
                                mask=name == "mask")
                backslashes += "\\" in row[name] and "\\" not in path
                row[name] = path
        if "original_split" in row:
            row["original_split"] = parts.get(row["original_split"].lower(), "")
        records.append((line, row))
    _write_numbers_alike([row for _, row in records], notes)
    start, root = root, _place(records, root, file)
    if backslashes:
        notes.append(f"{backslashes} paths are written with \\ and read with /")
    kept, found = keep_present(records, root, file, options, own=True)
    dicom = [row["image"] for row in kept if not is_image(row["image"])] if options.files else []
    tags = read_tags(root, dicom, options)
    kept = [row for row in kept if row["image"] not in tags.others]
    if options.prefix and "patient" in names:
        notes.append(f"patient ids get the prefix '{options.prefix}', since several sources are joined")
    for row in kept:
        patient = row.get("patient", "")
        row["patient"] = options.prefix + patient if patient else tags.patients.get(row["image"], "")
        row["center"] = tags.centers.get(row["image"], "") or row.get("center", "")
    table = make_table(kept, root, options, [*notes, *found, *tags.notes], dicom=tags.patients)
    return replace(table, wide=root != start)


def _find(path: Path) -> Path:
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise UserError(f"{path} is neither a CSV file nor a workbook ({', '.join(SUFFIXES)}). Save it as CSV.")
        return path
    tables = tables_in(path)
    if len(tables) != 1:
        names = ", ".join(table.name for table in tables[:5]) or "none"
        names += f" and {len(tables) - 5} more" if len(tables) > 5 else ""
        raise UserError(f"{path} must hold exactly one CSV file (found: {names}). Name the file: "
                        f"--path={path / 'FILE.csv'}")
    return tables[0]


def _without_end(rows: list[tuple[int, list[str]]], image: int, notes: list[str]) -> list[tuple[int, list[str]]]:
    """Leaves out the last rows that name no image, such as totals."""
    last = max((number for number, (_, cells) in enumerate(rows, start=1) if cells[image]), default=len(rows))
    if last < len(rows):
        notes.append(f"{counted(len(rows) - last, 'row')} at the end without an image left out, such as row "
                     f"{rows[last][0]}: {', '.join(filter(None, rows[last][1]))}")
    return rows[:last]


def _write_numbers_alike(rows: list[dict[str, str]], notes: list[str]) -> None:
    """Writes columns of whole numbers without the .0 that pandas adds to a column with empty cells, and leaves its NaN
    empty."""
    for name in [name for name in NUMBERED if name in rows[0]]:
        unknown = [row for row in rows if name != "label" and row[name].lower() in NOT_GIVEN]
        if unknown:
            notes.append(f"column {name}: {counted(len(unknown), 'cell')} such as {unknown[0][name]} read as empty")
        for row in unknown:
            row[name] = ""
        values = {row[name] for row in rows} - {""}
        if any("." in value for value in values) and all(map(WHOLE.fullmatch, values)):
            for row in rows:
                row[name] = row[name].partition(".")[0]
            notes.append(f"column {name}: numbers such as {min(value for value in values if '.' in value)} are read "
                         "without .0")


def _relative(value: str, root: Path) -> str:
    """Returns a path relative to `root`, with /, if it leads into it."""
    if "\\" in value and not os.path.exists(root / value):
        value = value.replace("\\", "/")
    if os.path.isabs(value):
        for path, top in ((value, root), (os.path.realpath(value), os.path.realpath(root))):
            if is_inside(path := os.path.normpath(path), str(top)):
                return os.path.relpath(path, top).replace(os.sep, "/")
    return value if path_problem(value) else posixpath.normpath(value)


def _place(records: list[tuple[int, dict[str, str]]], root: Path, file: Path) -> Path:
    """Returns the folder that holds all files of a table, some of which may lie outside `root`, and writes all paths
    relative to it."""
    paths = [path for _, row in records for name in FILES if (path := row[name])]
    outside = [path for path in paths if path_problem(path) and os.path.isfile(root / path)]
    if not outside:
        return root
    folders = {os.path.dirname(os.path.normpath(root / path)) for path in outside}
    folders |= {str(root)} if len(outside) < len(paths) else set()
    if (top := os.path.commonpath(folders)) == os.path.dirname(top):
        raise UserError(f"{file}: its images lie in {' and '.join(sorted(folders)[:2])}, which are in no folder but "
                        f"{top}. Split the table, and prepare each part as a source: --source=csv,csv "
                        "--path=A.csv,B.csv")
    for _, row in records:
        for name in FILES:
            if row[name] and os.path.isfile(root / row[name]):
                row[name] = os.path.relpath(root / row[name], top).replace(os.sep, "/")
    return Path(top)


def _check_kind(path: Path, where: str, *, mask: bool) -> None:
    """Raises UserError if a file exists but is neither an image, a DICOM file nor, as a mask, an annotation."""
    usable = is_image(path.name) or (path.suffix == ".json" if mask else is_dicom(path))
    if not usable and path.is_file():
        raise UserError(f"{where}: {path} is neither an image ({', '.join(IMAGES)}) nor "
                        f"{'a LabelMe file (.json)' if mask else 'DICOM'}. Remove the row.")
