"""CSV files: reads what clinics and spreadsheets write; writes nothing that a spreadsheet would run as a formula."""

import csv
import io
import re
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from busfast.errors import UserError
from busfast.files import atomic

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
STARTS = frozenset("'=+-@")
FORMULA = re.compile(r"'*[=+\-@]")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


class Rows(NamedTuple):
    """What stands in a CSV file.

    Attributes:
        header: names of the columns.
        rows: number and cells of each row. The header is row 1; a row of several lines (a quoted cell with line
            ends) counts once, as in a spreadsheet.
        notes: what was read otherwise than UTF-8 separated by commas, for the user to know.
    """

    header: list[str]
    rows: list[tuple[int, list[str]]]
    notes: list[str]


def read_rows(path: str | Path, required: tuple[str, ...], *, empty: bool = False) -> Rows:
    """Reads a CSV file with a header: UTF-8 (also with a byte-order mark), UTF-16 or Latin-1 (Windows-1252),
    separated by commas, semicolons or tabs, with the line ends of any system.

    Cells come without the space around them, and without the apostrophe that `write_csv` puts before a formula.

    Args:
        path: the file.
        required: columns that must be there.
        empty: whether there may be a header alone.

    Raises:
        UserError: the file is missing or no such text, a required column is missing, a row is empty or uneven.
    """
    path = Path(path)
    text, notes = _read_text(path)
    separator = _find_separator(text, required)
    if separator != ",":
        notes.append(f"{path} is separated by {SEPARATORS[separator]}")
    read = []
    try:
        for cells in csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True):
            read.append([_unescape(cell.strip()) for cell in cells])
    except csv.Error as error:
        raise UserError(f"{path}, row {len(read) + 1}: {error}. Mend that row.") from error
    if not read:
        raise UserError(f"{path} is empty. Its first row names the columns"
                        + (f"; needed: {', '.join(required)}." if required else "."))
    header, rows = read[0], list(enumerate(read[1:], start=2))
    for name in required:
        if name not in header:
            other = next((title for title in header if title.lower() == name), "")
            hint = f" Write '{name}' for '{other}'." if other else ""
            raise UserError(f"{path}, row 1: the column '{name}' is missing (found: {', '.join(header)})."
                            f"{hint} Columns are separated by commas; needed: {', '.join(required)}.")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise UserError(f"{path}, row 1: the column '{twice[0]}' stands there twice. Rename one of them.")
    if not rows and not empty:
        raise UserError(f"{path} has a header but no rows. Add a row for each image.")
    for line, cells in rows:
        if not any(cells):
            raise UserError(f"{path}, row {line}: the row is empty. Remove it.")
        if len(cells) != len(header):
            raise UserError(f"{path}, row {line}: {len(cells)} cells, but the header has {len(header)} columns. "
                            f"Quote cells that contain {SEPARATORS[separator]}.")
    return Rows(header, rows, notes)


def write_csv(table: pd.DataFrame, path: str | Path, **options) -> None:
    """Writes a table as CSV, whole or not at all; `read_rows` gives the same cells back.

    A text that begins with =, +, - or @ and is no number would be run by a spreadsheet as a formula: it gets an
    apostrophe in front (see OWASP, "CSV Injection").

    Args:
        table: the rows; its index is not written.
        path: where the file shall stand; its folder exists.
        options: of `DataFrame.to_csv`.
    """
    # Most columns hold no such cell, and looking at one character is cheap.
    suspect = [name for name, column in table.items() if any(str(cell)[:1] in STARTS for cell in column)]
    table = table.assign(**{name: table[name].map(escape) for name in suspect})
    table.columns = [escape(name) for name in table.columns]
    # Python before 3.13 leaves a lone carriage return unquoted, which would end the row.
    quoting = csv.QUOTE_ALL if any("\r" in str(cell) for cell in table.to_numpy().ravel()) else csv.QUOTE_MINIMAL
    with atomic(Path(path)) as file:
        table.to_csv(file, index=False, lineterminator="\n", quoting=quoting, **options)


def escape(cell):
    """Returns a cell as `write_csv` writes it: a text that a spreadsheet would run gets an apostrophe in front."""
    return f"'{cell}" if isinstance(cell, str) and FORMULA.match(cell) and not NUMBER.fullmatch(cell) else cell


def _unescape(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell


def _read_text(path: Path) -> tuple[str, list[str]]:
    try:
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
    """The separator under which the header has the required columns, or else the most columns."""
    def value(separator: str) -> tuple[int, int]:
        header = [cell.strip() for cell in next(csv.reader(io.StringIO(text, newline=""), delimiter=separator), [])]
        return sum(name in header for name in required), len(header)
    return max(SEPARATORS, key=value)
