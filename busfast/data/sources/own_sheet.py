"""A user's own table -> rows with a header, without what spreadsheets and pandas leave in it; all that is said."""

from collections.abc import Collection
from pathlib import Path
from shlex import quote

from busfast.csvfile import Rows, check_header, read_cells
from busfast.data.labels import plain
from busfast.data.sources.listing import is_image
from busfast.data.sources.sheets import read_workbook
from busfast.errors import UserError
from busfast.text import counted

SHOWN = 6  # cells of a row in an error


def read_own_sheet(path: Path, columns: Collection[str] = ()) -> Rows:
    """Reads a CSV file or workbook of any make; skips blank rows, and nameless columns that count the rows.

    A table whose first row names an image, or whose `columns` are asked for by number, has no header: its columns are
    called image and label, if they are two, else by number, from "1".
    """
    cells, notes = read_workbook(path) if path.suffix.lower() == ".xlsx" else read_cells(path)[::2]
    filled = [(line, row) for line, row in enumerate(cells, start=1) if any(row)]
    if not filled:
        raise UserError(f"{path} is empty. Its first row must name the columns, such as image,label.")
    if blank := sum(line < filled[-1][0] for line, row in enumerate(cells, start=1) if not any(row)):
        notes.append(f"{counted(blank, 'blank row')} left out")
    header = filled[0][1]
    numbered = bool(columns) and all(map(str.isdecimal, columns)) and not {*columns} <= {*header}
    if numbered or any(map(is_image, header)):
        header = [str(number) for number in range(1, 1 + max(len(row) for _, row in filled))] if numbered else \
            _name_two(header, path)
        notes.append(f"{path.name} has no row of column names; its columns are called {', '.join(header)}")
    else:
        del filled[0]
    rows = [(line, _fit(row, header, path, line)) for line, row in filled]
    header, rows = _without_nameless(header, rows, notes)
    check_header(path, header, ())
    if not rows:
        raise UserError(f"{path} has a header but no rows. Add one row per image.")
    return Rows(header, rows, notes)


def _name_two(first: list[str], path: Path) -> list[str]:
    """Names the columns of a table without header, if they are an image and something else."""
    image = next(index for index, cell in enumerate(first) if is_image(cell))
    if len(first) == 2 and not is_image(first[1 - image]):
        return ["image", "label"] if image == 0 else ["label", "image"]
    raise UserError(f"{path} has no row of column names: its first row is {', '.join(first[:SHOWN])}"
                    f"{', ...' if len(first) > SHOWN else ''}. Add one, such as image,label,patient, or say the "
                    f"numbers of the columns: python -m busfast prepare --source=csv --path={quote(str(path))} "
                    f"--columns=image={image + 1},label=NUMBER")


def _fit(row: list[str], header: list[str], path: Path, line: int) -> list[str]:
    """Returns a row of as many cells as the header, if only blank cells at its end are too many."""
    if (len(row) < len(header) and path.suffix.lower() != ".xlsx") or any(row[len(header):]):
        raise UserError(f"{path}, row {line}: {len(row)} cells, but the header has {len(header)} columns. Quote cells "
                        "that contain the separator, or fill the row up.")
    return (row + [""] * len(header))[:len(header)]


def _without_nameless(header: list[str], rows: list[tuple[int, list[str]]],
                      notes: list[str]) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Leaves out nameless columns that are blank or whole numbers, and names the others."""
    named, kept, counts = list(header), [], []
    for index, title in enumerate(header):
        values = [cells[index] for _, cells in rows]
        nameless = not title or plain(title).startswith("unnamed:")
        if nameless and all(value.isdecimal() or not value for value in values):
            counts += [title or str(index + 1)] * any(values)
            continue
        if nameless:
            images = sum(map(is_image, values)) > len(values) / 2
            named[index] = "image" if images and "image" not in map(plain, header) else f"column {index + 1}"
            notes.append(f"column {index + 1} has no name and is called '{named[index]}'")
        kept.append(index)
    if counts:
        notes.append(f"nameless columns that count the rows are left out: {', '.join(counts)}")
    return [named[index] for index in kept], [(line, [cells[index] for index in kept]) for line, cells in rows]
