"""table.csv: one row per image. Errors name row and column."""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pandas as pd

from busfast.csvfile import read_rows
from busfast.data.finder import Finder, files_below
from busfast.data.labels import CLASSES, find_classes, match_label
from busfast.data.paths import SOURCES_FILE, PathSandbox, locate, path_problem, read_source_folders
from busfast.errors import UserError, suggest_path
from busfast.text import counted

REQUIRED = ("image", "label")
OPTIONAL = ("center", "patient", "device", "mask")
LEFT_OUT = ("image", "label", "center", "patient", "reason")  # columns of what was left out


@dataclass(frozen=True, eq=False)
class Table:
    """The images of a data folder.

    Attributes:
        rows: one row an image, all columns text ("" where a value is missing): image (path relative to `root`), label,
            center, patient, device, mask, then any other column.
        root: folder that the paths of images and masks are relative to.
        file: the table.csv that the rows were read from; None: no such file.
        notes: what the user should know about the rows.
        pixels: image -> hash of its pixels (see `busfast.data.fingerprint`); empty until the images have been read.
        left_out: rows of the file that are not in `rows`, and why: columns `LEFT_OUT`; None: there are none.
    """

    rows: pd.DataFrame
    root: Path = Path()
    file: Path | None = None
    notes: tuple[str, ...] = ()
    pixels: Mapping[str, str] = field(default_factory=dict)
    left_out: pd.DataFrame | None = field(default=None, kw_only=True)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def of_folders(self) -> bool:
        """Whether there is no such file, as the images lie in class folders."""
        return self.file is not None and not os.path.isfile(self.file)

    @property
    def title(self) -> str:
        """What messages call it: its file, the folder of class folders, or a DataFrame."""
        return str(self.root if self.of_folders else self.file or "the DataFrame")

    def image_paths(self) -> list[Path]:
        """Returns the file of each image, in order."""
        folders = read_source_folders(self.root)
        return [locate(self.root, name, folders) for name in self.rows["image"]]


def as_table(table: Table | pd.DataFrame) -> Table:
    """Returns a table as it is; makes one of rows whose paths are absolute or relative to the working directory."""
    return Table(table) if isinstance(table, pd.DataFrame) else table


def find_table(data: str | Path) -> Path:
    """Returns the table of a data folder: `data` itself if it is a CSV file, else `data/table.csv`; or raises
    UserError.
    """
    path = Path(data)
    if path.suffix.lower() == ".csv" and os.path.isfile(path):
        return path
    if not os.path.exists(path):  # also where the name is impossible
        near = suggest_path(path, lambda one: os.path.isdir(one) or one.suffix.lower() == ".csv")
        raise UserError(f"There is no data folder '{data}'.{near} Name a folder with one folder per class, or with a "
                        "table.csv, or a CSV file: --data=FOLDER.")
    table = path / "table.csv"
    if not table.is_file():
        raise UserError(
            f"The folder '{data}' has no table.csv, no class folders with images and no other CSV file. Sort the "
            "images into one folder per class, make a table of them (python -m busfast prepare --help), or write one "
            f"with a row for each image; columns: {', '.join(REQUIRED)}; optional: {', '.join(OPTIONAL)}.")
    return table


def read_table(data: str | Path, classes: tuple[str, ...] = CLASSES, *, files: bool = True,
               other_labels: bool = False, label_delim: str = "") -> Table:
    """Reads and checks the table of a data folder.

    Args:
        data: a folder with `table.csv`, or the path of such a CSV file (its format: see `read_rows`).
        classes: the allowed labels, in the model's order; none: those that are found (see `find_classes`). Case,
            spaces, "-" and "_" may differ; a note says so.
        files: whether the images and masks must exist.
        other_labels: whether other labels are allowed.
        label_delim: not "": an image may have several labels, with this between them, or none.

    Returns:
        The table; its notes say which values were read differently from how they are written.

    Raises:
        UserError: a required column is missing; a row is empty, too short or too long, has an unknown label, an image
            that another row has, a path outside the folder, or a file that does not exist.
    """
    path = find_table(data)
    header, rows, notes = read_rows(path, REQUIRED)
    columns = [*header, *(name for name in OPTIONAL if name not in header)]
    check = _RowCheck(path, classes, files, other_labels, () if label_delim else ("label",))
    records = []
    for line, cells in rows:
        record = dict.fromkeys(columns, "") | dict(zip(header, cells, strict=True))
        check(line, record)
        records.append(record)
    if not classes:
        check.unify(records)
    return Table(pd.DataFrame(records, columns=columns, dtype=object), path.parent, path, (*notes, *check.notes()))


class _RowCheck:
    """Checks row after row: known label, existing files inside the folder, each image once."""

    def __init__(self, path: Path, classes: tuple[str, ...], files: bool, other_labels: bool,
                 filled: tuple[str, ...] = ("label",)):
        self.path, self.classes, self.files, self.other_labels = path, classes, files, other_labels
        self.filled = ("image", *filled)
        self.folders = read_source_folders(path.parent) if files else {}
        self.sandbox = PathSandbox(path.parent, *self.folders.values())
        self.seen: dict[str, int] = {}
        self.mapped: Counter = Counter()
        self.others: Counter = Counter()
        self.backslashes = 0
        self.links: list[str] = []

    def __call__(self, line: int, record: dict[str, str]) -> None:
        for name in self.filled:
            if not record[name]:
                raise UserError(f"{self.path}, row {line}, column {name}: the cell is empty. Fill it or remove the "
                                "row.")
        try:
            label = match_label(record["label"], self.classes) if self.classes else record["label"]
        except UserError as error:
            if not self.other_labels:
                raise UserError(f"{self.path}, row {line}, column label: {error} For other classes, name them in the "
                                "pipeline file (classes: [...]).") from None
            label = record["label"]
            self.others[label] += 1
        if label != record["label"]:
            self.mapped[record["label"], label] += 1
            record["label"] = label
        for name in ("image", "mask"):
            if record[name]:
                record[name] = self._check_path(f"{self.path}, row {line}, column {name}", record[name])
        image = str(PurePosixPath(record["image"]))
        if image in self.seen:
            raise UserError(f"{self.path}, row {line}, column image: '{image}' is already in row {self.seen[image]}. "
                            "Remove one of the two.")
        self.seen[image] = line

    def unify(self, records: list[dict[str, str]]) -> None:
        """Gives rows whose labels are spellings of one class the same label."""
        found = find_classes(record["label"] for record in records)
        for record in records:
            if (label := found[record["label"]]) != record["label"]:
                self.mapped[record["label"], label] += 1
                record["label"] = label

    def _check_path(self, where: str, value: str) -> str:
        folder = self.path.parent
        if wrong := path_problem(value):
            raise UserError(f"{where}: '{value}' {wrong}. Paths are relative to {folder} and stay inside it; for "
                            f"images elsewhere, use {SOURCES_FILE} (columns name, folder).")
        slashed = value.replace("\\", "/")
        if not self.files:
            self.backslashes += slashed != value
            return slashed
        file = locate(folder, value, self.folders)
        if not os.path.isfile(file) and slashed != value:
            self.backslashes += 1
            value, file = slashed, locate(folder, slashed, self.folders)
        if not os.path.isfile(file):
            near = "".join(f" Did you mean '{path}'?" for path in Finder(files_below(folder))(value)[:1])
            raise UserError(f"{where}: there is no file '{value}' in {folder}.{near} Correct the path or remove the "
                            "row; prepare --source=csv finds images under other writings of their names.")
        if target := self.sandbox.leads_out(file):
            self.links.append(f"{value} -> {target}")
        return value

    def notes(self) -> list[str]:
        """Returns which values were read differently from how they are written."""
        notes = [f"label '{written}' in {counted(count, 'row')} is read as '{label}'"
                 for (written, label), count in self.mapped.items()]
        if self.others:
            notes.append(f"labels other than the classes {', '.join(self.classes)}: " + ", ".join(
                f"'{label}' in {counted(count, 'row')}" for label, count in self.others.items()))
        if self.backslashes:
            notes.append(f"{counted(self.backslashes, 'path')} with \\ read with /")
        if self.links:
            notes.append(f"{counted(len(self.links), 'path')} led out of {self.path.parent} by symbolic links, which "
                         f"are followed, such as {self.links[0]}")
        return notes
