"""A user's CSV file or workbook, with any column names."""

import ntpath
import os
import posixpath
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from busfast.csvfile import Rows
from busfast.data.external_splits import NAMES
from busfast.data.images import SUFFIXES as IMAGES
from busfast.data.labels import plain
from busfast.data.sources.common import Options, keep_present, make_table
from busfast.data.sources.dicom_tags import is_dicom, read_tags
from busfast.data.sources.listing import files_in, is_image, subfolders
from busfast.data.sources.sheets import read_sheet
from busfast.data.split import UNUSED
from busfast.data.table import OPTIONAL, REQUIRED
from busfast.errors import UserError, choose, suggest
from busfast.text import counted

TITLE = "CSV"
LOOKS = "one CSV file with a row per image"
PUBLISHED: dict[str, int] = {}
SUFFIXES = (".csv", ".tsv", ".xlsx")
# busfast's name -> what others call the column, plain (see `plain`), most telling first.
USUAL = {
    "image": ("image", "imagepath", "filepath", "path", "filename", "imagefilename", "file", "fname", "fn", "imageid",
              "img", "imagename", "imageindex", "idcode", "name", "id"),
    "label": ("label", "labels", "class", "classname", "classid", "diagnosis", "dx", "target", "category",
              "classification", "pathology", "finding", "findings", "findinglabels", "species"),
    "patient": ("patient", "patientid", "pid", "case", "caseid", "subject", "subjectid", "personid"),
    "center": ("center", "centre", "hospital", "site", "institution", "clinic"),
    "original_split": ("originalsplit", "split", "part", "subset", "fold", "isvalid", "isval"),
}
PARTS = {name: part for name, part in NAMES.items() if part != UNUSED} | {"": ""}
IS_VALID = {"true": "valid", "1": "valid", "yes": "valid", "false": "train", "0": "train", "no": "train"}


def is_set(folder: Path) -> bool:
    """Returns whether a folder holds exactly one CSV file (or workbook)."""
    return len(tables_in(folder)) == 1


def tables_in(folder: Path) -> list[Path]:
    """Returns the CSV files in a folder; if there are none, its other tables."""
    tables = [path for path in files_in(folder) if path.suffix.lower() in SUFFIXES and not path.name.startswith("~")]
    return [path for path in tables if path.suffix.lower() == ".csv"] or tables


def names_images(file: Path) -> bool:
    """Returns whether the first rows of a CSV file name images, with their suffix, or without it if they lie in a
    folder beside the file."""
    try:
        with open(file, "rb") as opened:
            start = opened.read(2_000).lower()
    except OSError:
        return False
    if any(suffix.encode() in start for suffix in IMAGES):
        return True
    words = set(re.split(r"[\s,;|\"]+", start.decode("latin-1")))
    return any(path.stem.lower() in words for folder in subfolders(file.parent) for path in files_in(folder)[:1000]
               if is_image(path.name))


def read(root: Path, options: Options) -> pd.DataFrame:
    """Reads a user's CSV file or workbook, or a folder with exactly one; keeps all columns."""
    file = _find(root)
    root = file.parent
    sheet, one_hot = _join_one_hot(read_sheet(file, ()), file, options)
    names, notes = _name_columns(sheet.header, file, options)
    notes += one_hot
    parts = _part_names(sheet, names)
    if parts is None:  # numbers of folds, or something else
        names = [f"original_{sheet.header[index]}" if name == "original_split" else name
                 for index, name in enumerate(names)]
    records, backslashes = [], 0
    for line, cells in sheet.rows:
        row = dict(zip(names, cells, strict=True))
        for name in REQUIRED:
            if not row[name] and not (name == "label" and options.label_delim):
                raise UserError(f"{file}, row {line}, column {sheet.header[names.index(name)]}: the cell is empty. "
                                "Fill it in or remove the row.")
        for name in ("image", "mask"):
            if row.get(name):
                where = f"{file}, row {line}, column {sheet.header[names.index(name)]}"
                path = _relative(row[name], root, where)
                if options.files:
                    _check_kind(root / path, where, mask=name == "mask")
                backslashes += "\\" in row[name] and "\\" not in path
                row[name] = path
        if "original_split" in row:
            row["original_split"] = parts.get(row["original_split"].lower(), "")
        records.append((line, {"mask": ""} | row))
    if options.files:
        notes += _find_by_name([row for _, row in records], root)
    if backslashes:
        notes.append(f"{backslashes} paths are written with \\ and read with /")
    kept, missing = keep_present(records, root, file, options)
    dicom = [row["image"] for row in kept if not is_image(row["image"])] if options.files else []
    tags = read_tags(root, dicom, options)
    kept = [row for row in kept if row["image"] not in tags.others]
    if options.prefix and "patient" in names:
        notes.append(f"patient ids get the prefix '{options.prefix}', since several sources are joined")
    for row in kept:
        patient = row.get("patient", "")
        row["patient"] = options.prefix + patient if patient else tags.patients.get(row["image"], "")
        row["center"] = tags.centers.get(row["image"], "") or row.get("center", "")
    return make_table(kept, root, options, [*sheet.notes, *notes, *missing, *tags.notes], dicom=tags.patients)


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


def _join_one_hot(sheet: Rows, file: Path, options: Options) -> tuple[Rows, list[str]]:
    """Adds a column label to a table that has a column of 0 and 1 for each class instead; returns it, and notes."""
    header = sheet.header
    if usual_column("label", header) is not None or "label" in (options.columns or {}):
        return sheet, []
    usual = {usual_column(name, header) for name in (*USUAL, *OPTIONAL)}
    ones = [index for index, title in enumerate(header) if title not in usual
            and {cells[index] for _, cells in sheet.rows} <= {"0", "1", "0.0", "1.0"}]
    if len(ones) < 2:
        return sheet, []
    titles, rows = [header[index] for index in ones], []
    for line, cells in sheet.rows:
        labels = [header[index] for index in ones if float(cells[index])]
        if len(labels) != 1 and not options.label_delim:
            raise UserError(f"{file}, row {line}: of the columns {', '.join(titles)}, which hold 0 and 1, "
                            f"{' and '.join(labels) or 'none'} {'are' if len(labels) > 1 else 'is'} 1. If an image may "
                            "have several labels, or none: --label_delim=';'. Else add a column label.")
        rows.append((line, [*cells, (options.label_delim or "").join(labels)]))
    return Rows([*header, "label"], rows, sheet.notes), [f"labels from the columns {', '.join(titles)}, of 0 and 1"]


def _name_columns(header: list[str], file: Path, options: Options) -> tuple[list[str], list[str]]:
    """Returns busfast's name of each column, and notes."""
    ours: dict[str, int] = {}  # busfast's name -> index of the column
    for name, title in (options.columns or {}).items():
        choose("column of busfast", name, (*REQUIRED, *OPTIONAL, "group"))
        if title not in header:
            raise UserError(f"{file}, row 1: there is no column '{title}' (given as {name})."
                            f"{suggest(title, header, cutoff=0.4)} Found: {', '.join(header)}.")
        ours[name] = header.index(title)
    if len(set(ours.values())) < len(ours):
        raise UserError(f"--columns gives one column of {file} two names: {dict(options.columns)}.")
    for name in (*REQUIRED, *OPTIONAL):
        titles = [title for title in header if title.lower() == name]
        if name not in ours and titles and header.index(titles[0]) not in ours.values():
            if len(titles) > 1 and name not in titles:
                raise UserError(f"{file}, row 1: {' and '.join(titles)} could both be {name}. Choose one: "
                                f"--columns={name}={titles[0]}")
            ours[name] = header.index(name if name in titles else titles[0])
    for name in USUAL:
        title = usual_column(name, [title for title in header if header.index(title) not in ours.values()])
        if name not in ours and title is not None:
            ours[name] = header.index(title)
    if missing := [name for name in REQUIRED if name not in ours]:
        columns = ",".join(f"{name}={header[ours[name]] if name in ours else 'COLUMN'}" for name in REQUIRED)
        raise UserError(f"{file}, row 1: no column looks like {' or '.join(map(repr, missing))} (found: "
                        f"{', '.join(header)}; usual names: {', '.join(USUAL[missing[0]])}). Rename the column, or "
                        f"prepare the images: python -m busfast prepare --source=csv --path={file} --columns={columns}")
    names = list(header)
    for index, title in enumerate(names):
        if title in ours and ours[title] != index:  # such as a column 'label', if --columns names another as label
            names[index] = f"original_{title}"
            while names[index] in header:
                names[index] = f"original_{names[index]}"
    for name, index in ours.items():
        names[index] = name
    renamed = [f"{title} as {name}" for title, name in zip(header, names, strict=True) if title != name]
    kept = [name for index, name in enumerate(names) if index not in ours.values()]
    notes = [f"columns read: {', '.join(renamed)}"] if renamed else []
    return names, [*notes, f"other columns, kept: {', '.join(kept)}"] if kept else notes


def usual_column(name: str, titles: Iterable[Any]) -> Any:
    """Returns which of some columns is called what others call busfast's column `name`, most telling first; or None."""
    return next((title for usual in USUAL.get(name, (name,)) for title in titles if plain(str(title)) == usual), None)


def _part_names(sheet: Rows, names: list[str]) -> dict[str, str] | None:
    """Returns what the values of the column original_split mean, in lower case; None if they are no parts."""
    if "original_split" not in names:
        return {}
    index = names.index("original_split")
    values = {cells[index].lower() for _, cells in sheet.rows}
    if plain(sheet.header[index]) in ("isvalid", "isval") and values <= set(IS_VALID):
        return IS_VALID
    return PARTS if values <= set(PARTS) else None


def _relative(value: str, root: Path, where: str) -> str:
    """Returns a path of the file relative to the file's folder, with /."""
    if "\\" in value and not (root / value).exists():
        value = value.replace("\\", "/")
    if ntpath.splitdrive(value)[0] or os.path.isabs(value):
        inside = os.path.isabs(value) and os.path.relpath(os.path.realpath(value), os.path.realpath(root))
        if not inside or inside.startswith(".."):
            raise UserError(f"{where}: '{value}' is an absolute path outside {root}. Write paths relative to that "
                            "folder, or move the table into the folder that holds the images.")
        return inside.replace(os.sep, "/")
    value = posixpath.normpath(value)
    if value == ".." or value.startswith("../"):
        raise UserError(f"{where}: '{value}' leads out of {root}. Move the table into the folder that holds "
                        "the images.")
    return value


def _find_by_name(rows: list[dict[str, str]], root: Path) -> list[str]:
    """Gives rows whose image is not at its path the one image below `root` of that name, with or without its suffix;
    returns a note. A name with folders is a path, to which only a suffix may be added."""
    lost = [row for row in rows if not (root / row["image"]).is_file()]
    if not lost:
        return []
    below: dict[str, list[str]] = {}
    for folder, _, names in os.walk(root):
        for name in filter(is_image, names):
            path = os.path.relpath(os.path.join(folder, name), root).replace(os.sep, "/")
            for key in {name, posixpath.splitext(name)[0], posixpath.splitext(path)[0]}:
                below.setdefault(key, []).append(path)
    found = [(row, below[row["image"]][0]) for row in lost if len(below.get(row["image"], ())) == 1]
    for row, path in found:
        row["image"] = path
    return [f"{counted(len(found), 'image')} found by name, such as {found[0][1]}"] if found else []


def _check_kind(path: Path, where: str, *, mask: bool) -> None:
    """Raises UserError if a file exists but is neither an image, a DICOM file nor, as a mask, an annotation."""
    usable = is_image(path.name) or (path.suffix == ".json" if mask else is_dicom(path))
    if not usable and path.is_file():
        raise UserError(f"{where}: {path} is neither an image ({', '.join(IMAGES)}) nor "
                        f"{'a LabelMe file (.json)' if mask else 'DICOM'}. Remove the row.")
