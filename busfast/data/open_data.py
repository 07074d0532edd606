"""A set of images in whatever form somebody has it -> its table; nothing is written."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote

from busfast.csvfile import read_rows
from busfast.data.paths import SOURCES_FILE
from busfast.data.sources import csv_table, folder, guess_source, read_source, refuse_source
from busfast.data.sources.common import Options, SourceTable
from busfast.data.sources.dicom_tags import is_dicom, read_tags
from busfast.data.sources.listing import is_image
from busfast.data.table import REQUIRED, Table, find_table, read_table
from busfast.errors import UserError

DIRECT = ("folder", "csv", "dicom")  # sources whose images can be used as they lie


def find_data(data: str | Path) -> Path:
    """Returns the table of a set of images: its table.csv or other CSV file, or the table.csv, not there, that stands
    for class folders. Its folder is what paths in the table are relative to.

    Raises:
        UserError: there is nothing at `data`, or what is there must be prepared first.
    """
    path = Path(data)
    if not os.path.isdir(path) or (path / "table.csv").is_file():
        return find_table(data)
    source = guess_source(path)
    if source == "csv":
        return csv_table.tables_in(path)[0]
    if source in ("folder", "dicom"):
        return folder.find(Path(os.path.abspath(path)) if path.is_absolute() else path) / "table.csv"
    refuse_source(path)
    if len(tables := csv_table.tables_in(path)) > 1:
        names = ", ".join(table.name for table in tables[:5])
        raise UserError(f"The folder '{data}' has {len(tables)} tables ({names}). Name one of them: "
                        f"--data={path / tables[0].name}")
    return find_table(data)


def read_data(data: str | Path, classes: Sequence[str] = (), *, files: bool = True, other_labels: bool = False,
              label_delim: str = "") -> Table:
    """Reads a set of images: a folder with table.csv, class folders (also below train, valid and test), or a CSV file
    with the usual column names (or a folder with one). Images may be DICOM.

    Args:
        data: the folder, or the CSV file.
        classes, other_labels: as those of `read_table`; only a table.csv is refused for other labels.
        files: whether the images must exist.
        label_delim: the character between the labels of an image, which may then have several, or none.

    Returns:
        The table; a split that came with the images is its column original_split.

    Raises:
        UserError: as `find_data`, `read_table` and `read_source`; or masks in a form of their own.
    """
    file, classes = find_data(data), tuple(classes)
    if not os.path.isfile(file):
        source = _note_unknown(read_source("folder", file.parent, files=files, classes=classes), file.parent)
    elif file.name == "table.csv" or ((file.parent / SOURCES_FILE).is_file()
                                      and {*REQUIRED} <= {*read_rows(file, ())[0]}):
        return _with_patients(read_table(file, classes, files=files, other_labels=other_labels,
                                         label_delim=label_delim), files)
    else:
        source = read_source("csv", file, files=files, classes=classes, label_delim=label_delim)
    if source.root != Path(os.path.abspath(file.parent)):  # paths of a table to train on stay in its folder
        raise UserError(f"{data}: its images lie outside {file.parent}, in {source.root}. Make a table of them first: "
                        f"python -m busfast prepare --source=csv --path={quote(str(file))}")
    masks = [isinstance(mask, str) for mask in source.rows["mask"]]
    notes = source.notes if all(masks) else (*source.notes, "masks of several files are not used; prepare joins them")
    rows = source.rows.assign(mask=[mask if single else "" for mask, single in
                                    zip(source.rows["mask"], masks, strict=True)])
    return replace(Table(rows, file.parent), file=file, notes=notes)


def _note_unknown(source: SourceTable, folder: Path) -> SourceTable:
    """Says which of patient and center class folders do not name, and how to name them."""
    unknown = [name for name in ("patient", "center") if (source.rows[name] == "").all()]
    if not unknown:
        return source
    note = (f"class folders name no {' and no '.join(unknown)}; a table with a column for each is made by: "
            f"python -m busfast prepare --source=folder --path={quote(str(folder))} --out=data/NAME")
    return replace(source, notes=(*source.notes, note))


def _with_patients(table: Table, files: bool) -> Table:
    """Gives the DICOM images of a table that names no patient for them the patient that they name."""
    rows = table.rows
    unknown = {image: str(path) for image, path, patient in
               zip(rows["image"], table.image_paths(), rows["patient"], strict=True)
               if not patient and not is_image(image) and is_dicom(path)}
    if not unknown:
        return table
    tags = read_tags(Path(), [*unknown.values()], Options(files=files))
    patients = [patient or tags.patients.get(unknown.get(image, ""), "")
                for image, patient in zip(rows["image"], rows["patient"], strict=True)]
    return replace(table, rows=rows.assign(patient=patients), notes=(*table.notes, *tags.notes))


def is_prepared(data: str | Path) -> bool:
    """Returns whether a set of images has a table.csv, whose column original_split no split uses by itself."""
    file = find_data(data)
    return os.path.isfile(file) and file.name == "table.csv"


def hash_data(data: str | Path) -> str:
    """Returns the SHA-256 of a table, or of the paths of class folders."""
    file = find_data(data)
    if os.path.isfile(file):
        return hashlib.sha256(file.read_bytes()).hexdigest()
    images, dicom, *_ = folder.sort_files(file.parent)
    return hashlib.sha256("\n".join(sorted([*images, *dicom])).encode()).hexdigest()
