"""Reads CSV files, and the first sheet of Excel workbooks. No formula is run."""

import datetime
import zipfile
from pathlib import Path

from busfast.csvfile import Rows, check_header, read_rows
from busfast.errors import UserError

UNPACKED = 500_000_000  # bytes; a larger workbook is an attack (zip bomb)


def read_sheet(path: Path, required: tuple[str, ...]) -> Rows:
    """Reads a CSV file (see `read_rows`) or the first sheet of a workbook (.xlsx); formulas give their saved values."""
    if path.suffix.lower() != ".xlsx":
        return read_rows(path, required)
    cells, notes = read_workbook(path)
    header = [name.strip() for name in cells[0]] if cells else []
    while header and not header[-1]:
        header.pop()
    if "" in header:
        raise UserError(f"{path}, row 1: column {header.index('') + 1} has no name. Name it.")
    check_header(path, header, required)
    rows = [(line, (row + [""] * len(header))[:len(header)]) for line, row in enumerate(cells[1:], start=2) if any(row)]
    if not rows:
        raise UserError(f"{path} has a header but no rows. Add one row per image.")
    return Rows(header, rows, notes)


def read_workbook(path: Path) -> tuple[list[list[str]], list[str]]:
    """Returns the cells of a workbook's first sheet, and a note if it has others."""
    try:
        import openpyxl
    except ImportError:
        raise UserError(f"{path} is an Excel workbook, which needs openpyxl: pip install openpyxl") from None
    try:
        with zipfile.ZipFile(path) as packed:
            size = sum(part.file_size for part in packed.infolist())
        if size > UNPACKED:
            raise UserError(f"{path} unpacks to {size:,} bytes, more than the limit of {UNPACKED:,}. Save it as CSV.")
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        try:
            cells = [[_text(value) for value in row] for row in book.worksheets[0].iter_rows(values_only=True)]
            sheets = [sheet.title for sheet in book.worksheets]
        finally:
            book.close()
    except UserError:
        raise
    except Exception as error:  # a damaged workbook raises nearly anything, from BadZipFile to KeyError
        raise UserError(f"{path} cannot be read as an Excel workbook ({type(error).__name__}: {error}). "
                        "Save it again, or as CSV.") from error
    return cells, [f"only the first sheet of {path.name} is read ('{sheets[0]}')"] if len(sheets) > 1 else []


def _text(value) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # Excel stores all numbers as floats
    if isinstance(value, datetime.datetime):
        return value.date().isoformat() if value.time() == datetime.time() else value.isoformat(" ")
    return str(value).strip()
