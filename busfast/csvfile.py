"""CSV files: reads what clinics and spreadsheets write; escapes what a spreadsheet would run as a formula."""

import csv
import io
import os
import re
import stat
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from busfast.errors import UserError
from busfast.files import atomic

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
# The start of a cell that a spreadsheet runs as a formula, including the wide forms of Japanese keyboards. Some drop
# leading space; a leading tab or line end may move the rest into a cell of its own.
FORMULA = re.compile(r"'*(\s*[=+\-@＝＋－＠]|[\t\r\n])")
STARTS = frozenset("'=+-@＝＋－＠")
MAX_BYTES = 500_000_000  # of a table: some millions of rows
SHOWN = 20  # columns listed in an error
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


class Rows(NamedTuple):
    """The contents of a CSV file.

    The header is row 1; a row of several lines (a quoted cell with line ends) counts once, as in a spreadsheet.
    """

    header: list[str]  # names of the columns
    rows: list[tuple[int, list[str]]]  # number and cells of each row
    notes: list[str]  # for the user, if the file is not UTF-8 separated by commas


def read_rows(path: str | Path, required: tuple[str, ...], *, empty: bool = False) -> Rows:
    """Reads a CSV file with a header.

    UTF-8 (also with a byte-order mark), UTF-16 or Latin-1 (Windows-1252), separated by commas, semicolons or tabs, with
    any line ends. Strips cells, leaves out blank rows at the end, and removes the apostrophe that `write_csv` puts
    before a formula.

    Args:
        path: the file.
        required: columns that must exist.
        empty: accept a file without rows.

    Raises:
        UserError: the file is missing or is not such text, a required column is missing, a row is empty or has another
            number of cells.
    """
    path = Path(path)
    lines, separator, notes = read_cells(path, required)
    if not lines:
        raise UserError(f"{path} is empty. Its first row must name the columns"
                        + (f"; needed: {', '.join(required)}." if required else "."))
    while len(lines) > 1 and not any(lines[-1]):  # spreadsheets leave blank rows at the end
        del lines[-1]
    header, rows = lines[0], list(enumerate(lines[1:], start=2))
    check_header(path, header, required)
    if not rows and not empty:
        raise UserError(f"{path} has a header but no rows. Add one row per image.")
    for line, cells in rows:
        if not any(cells):
            raise UserError(f"{path}, row {line}: the row is empty. Remove it.")
        if len(cells) != len(header):
            raise UserError(f"{path}, row {line}: {len(cells)} cells, but the header has {len(header)} columns. "
                            f"Quote cells that contain {SEPARATORS[separator]}.")
    return Rows(header, rows, notes)


def read_cells(path: Path, required: tuple[str, ...] = ()) -> tuple[list[list[str]], str, list[str]]:
    """Returns the cells of all rows as `read_rows` reads them, whatever they are, their separator, and notes."""
    text, notes = read_text(path)
    separator = _find_separator(text, required)
    if separator != ",":
        notes.append(f"{path} is separated by {SEPARATORS[separator]}")
    lines = []
    try:
        for cells in csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True):
            lines.append([_unescape(cell.strip()) for cell in cells])
    except csv.Error as error:
        raise UserError(f"{path}, row {len(lines) + 1}: {error}. Fix that row.") from error
    return lines, separator, notes


def check_header(path: Path, header: Sequence[str], required: Sequence[str]) -> None:
    """Raises UserError if a required column is missing, or two columns have the same name."""
    for name in required:
        if name not in header:
            other = next((title for title in header if title.lower() == name), "")
            hint = f" Write '{name}' for '{other}'." if other else ""
            names = ", ".join(header[:SHOWN]) + (f" and {len(header) - SHOWN} more" if len(header) > SHOWN else "")
            raise UserError(f"{path}, row 1: the column '{name}' is missing (found: {names or 'nothing'})."
                            f"{hint} Needed: {', '.join(required)}.")
    repeated = sorted(name for name, count in Counter(header).items() if count > 1)
    if repeated:
        raise UserError(f"{path}, row 1: there are two columns '{repeated[0]}'. Rename one of them.")


def write_csv(table: pd.DataFrame, path: str | Path, **options) -> None:
    """Writes a table as CSV, atomically; `read_rows` returns the same cells.

    Text that begins with =, +, - or @ (also after space) and is not a number, or with a tab or a line end, may be run
    by a spreadsheet as a formula: it gets an apostrophe in front (see OWASP, "CSV Injection").

    The index is not written; `options` are those of `DataFrame.to_csv`.
    """
    # Most columns hold no such cell, and checking one character is cheap.
    suspect = [name for name, column in table.items() if any(map(_may_be_formula, column))]
    table = table.assign(**{name: table[name].map(escape) for name in suspect})
    table.columns = [escape(name) for name in table.columns]
    # Python before 3.13 does not quote a single carriage return, which would end the row.
    quoting = csv.QUOTE_ALL if any("\r" in str(cell) for cell in table.to_numpy().ravel()) else csv.QUOTE_MINIMAL
    with atomic(Path(path)) as file:
        table.to_csv(file, index=False, lineterminator="\n", quoting=quoting, **options)


def escape(cell: Any) -> Any:
    """Returns a cell as `write_csv` writes it: with an apostrophe before what a spreadsheet would run as a formula."""
    return f"'{cell}" if isinstance(cell, str) and FORMULA.match(cell) and not NUMBER.fullmatch(cell.strip()) else cell


def _may_be_formula(cell) -> bool:
    first = str(cell)[:1]
    return first in STARTS or first.isspace()


def _unescape(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell


def read_frame(path: str | Path, columns: Sequence[str] = (), *, empty: bool = False, **options) -> pd.DataFrame:
    """Reads a table of numbers that busfast wrote; UserError if it is not one.

    Args:
        path: the CSV file.
        columns, empty: columns that must exist, and whether the table may have no rows.
        options: of `pandas.read_csv`.
    """
    try:
        table = pd.read_csv(path, **options)
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise UserError(f"{path} is not a table that busfast wrote: {' '.join(str(error).split())[:200]}. Write it "
                        "again, or remove it.") from error
    missing = [name for name in columns if name not in table]
    if missing or (table.empty and not empty):
        raise UserError(f"{path} is not a table that busfast wrote: "
                        + (f"the column '{missing[0]}' is missing" if missing else "it has no rows")
                        + ". Write it again, or remove it.")
    return table


def read_text(path: Path) -> tuple[str, list[str]]:
    """Returns the text of a file in any encoding that `read_rows` reads, and a note if that is not UTF-8.

    Raises:
        UserError: it cannot be read, is not a regular file (a pipe may never end), exceeds `MAX_BYTES`, or is not text.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path} is not a regular file. Name a file.")
        if status.st_size > MAX_BYTES:
            raise UserError(f"{path} has {status.st_size:,} bytes; the limit is {MAX_BYTES:,}. Is it a table?")
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return raw.decode("utf-16"), [f"{path} is read as UTF-16"]
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is neither UTF-8 nor UTF-16 text ({error.reason}). Save it as UTF-8.") from error
    try:
        return raw.decode("utf-8-sig"), []
    except UnicodeDecodeError as error:
        note = f"{path} is not UTF-8 (byte {error.start}) and read as Latin-1 (Windows-1252)"
    try:
        return raw.decode("cp1252"), [note]
    except UnicodeDecodeError:
        return raw.decode("latin-1"), [note]


def _find_separator(text: str, required: tuple[str, ...]) -> str:
    """Returns the separator that gives the header the most required columns, then the most columns."""
    def count_columns(separator: str) -> tuple[int, int]:
        try:
            header = [cell.strip() for cell in next(csv.reader(io.StringIO(text, newline=""), delimiter=separator), [])]
        except csv.Error:  # `read_rows` meets and reports it
            header = []
        return sum(name in header for name in required), len(header)
    return max(SEPARATORS, key=count_columns)
