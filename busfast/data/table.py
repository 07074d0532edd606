"""table.csv: one row an image. Reads it, and refuses what cannot be trained on by row and column."""

import csv
import os
from pathlib import Path, PurePosixPath, PureWindowsPath

import pandas as pd

from busfast.errors import UserError, choose

REQUIRED = ("image", "label")
OPTIONAL = ("center", "patient", "device", "mask")
CLASSES = ("normal", "benign", "malignant")


def find_table(data: str | Path) -> Path:
    """Returns the table of a data folder: `data` itself if it is a CSV file, else `data/table.csv`.

    Raises:
        UserError: there is none.
    """
    path = Path(data)
    if path.suffix.lower() == ".csv" and path.is_file():
        return path
    if not path.exists():
        raise UserError(f"There is no data folder '{data}'. Name a folder with a table.csv: --data=FOLDER.")
    table = path / "table.csv"
    if not table.is_file():
        raise UserError(
            f"The folder '{data}' has no table.csv. Write one with a row for each image; columns: "
            f"{', '.join(REQUIRED)}; if known also: {', '.join(OPTIONAL)}."
        )
    return table


def read_table(data: str | Path, classes: tuple[str, ...] = CLASSES) -> pd.DataFrame:
    """Reads and checks the table of a data folder.

    Args:
        data: a folder with `table.csv`, or the path of such a CSV file (UTF-8, separated by commas).
        classes: the labels that may occur, in the model's order.

    Returns:
        One row an image, all columns text ("" where nothing is known): image (path relative to the folder),
        label, center, patient, device, mask, then any other column as it stands. `attrs["root"]` is the folder.

    Raises:
        UserError: a required column is missing, or a row is empty, of the wrong length, a duplicate, has an
            unknown label, a path outside the folder, or a file that does not exist; names row and column.
    """
    path = find_table(data)
    header, rows = read_rows(path, REQUIRED)
    columns = [*header, *(name for name in OPTIONAL if name not in header)]
    seen: dict[str, int] = {}
    records = []
    for line, cells in rows:
        record = dict.fromkeys(columns, "") | dict(zip(header, cells, strict=True))
        _check_row(path, line, record, classes, seen)
        records.append(record)
    table = pd.DataFrame(records, columns=columns, dtype=object)
    table.attrs["root"] = str(path.parent)
    return table


def read_rows(path: Path, required: tuple[str, ...]) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Reads a CSV file: UTF-8, separated by commas, with a header.

    Returns:
        The header and, for each row, its number and cells. The header is row 1; a row of several lines (a quoted
        cell with line ends) counts once, as in a spreadsheet.

    Raises:
        UserError: the file is missing or not such text, a required column is missing, a row is empty or uneven.
    """
    read = []
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            for cells in csv.reader(file, strict=True):
                read.append([cell.strip() for cell in cells])
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}). "
                        "Save it as UTF-8.") from error
    except csv.Error as error:
        raise UserError(f"{path}, row {len(read) + 1}: {error}. Mend that row.") from error
    header, rows = read[0] if read else [], list(enumerate(read[1:], start=2))
    for name in required:
        if name not in header:
            found = ", ".join(header) or "nothing"
            other = next((title for title in header if title.lower() == name), "")
            hint = f" Write '{name}' for '{other}'." if other else ""
            if len(header) == 1 and (";" in found or "\t" in found):
                hint = " It is separated by semicolons or tabs: save it separated by commas."
            raise UserError(f"{path}, row 1: the column '{name}' is missing (found: {found}).{hint} Columns are "
                            f"separated by commas; needed: {', '.join(required)}.")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise UserError(f"{path}, row 1: the column '{twice[0]}' stands there twice. Rename one of them.")
    if not rows:
        raise UserError(f"{path} has a header but no rows. Add a row for each image.")
    for line, cells in rows:
        if not any(cells):
            raise UserError(f"{path}, row {line}: the row is empty. Remove it.")
        if len(cells) != len(header):
            raise UserError(f"{path}, row {line}: {len(cells)} cells, but the header has {len(header)} columns. "
                            "Quote cells that contain commas.")
    return header, rows


def _check_row(path: Path, line: int, record: dict, classes: tuple[str, ...], seen: dict[str, int]) -> None:
    """Checks one row: label known, files inside the folder and there, image not named before."""
    for name in REQUIRED:
        if not record[name]:
            raise UserError(f"{path}, row {line}, column {name}: the cell is empty. Fill it or remove the row.")
    try:
        choose("label", record["label"], classes)
    except UserError as error:
        raise UserError(f"{path}, row {line}, column label: {error} Other classes are named in the pipeline "
                        "file (classes: [...]).") from None
    for name in ("image", "mask"):
        if record[name]:
            _check_path(path, line, name, record[name])
    image = str(PurePosixPath(record["image"]))
    if image in seen:
        raise UserError(f"{path}, row {line}, column image: '{image}' is already in row {seen[image]}. "
                        "Remove one of the two.")
    seen[image] = line


def _check_path(path: Path, line: int, column: str, value: str) -> None:
    where = f"{path}, row {line}, column {column}"
    if PurePosixPath(value).is_absolute() or PureWindowsPath(value).drive or value.startswith("\\"):
        raise UserError(f"{where}: '{value}' is an absolute path. Paths are relative to {path.parent}.")
    if ".." in PurePosixPath(value.replace("\\", "/")).parts:
        raise UserError(f"{where}: '{value}' leads out of the data folder. Paths stay inside {path.parent}.")
    if not os.path.isfile(path.parent / value):  # False, too, for what no file can be called
        hint = " Write / between folders, not \\." if "\\" in value else ""
        raise UserError(f"{where}: there is no file '{value}' in {path.parent}. Mend the path or remove "
                        f"the row.{hint}")
