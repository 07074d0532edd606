"""A split made elsewhere: lists of train, validation and test images, or one file that names each image's part."""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from busfast.csvfile import read_rows, read_text
from busfast.data.finder import Finder
from busfast.data.labels import match_label, plain
from busfast.data.split import PARTS, SPLITS, UNUSED, Split
from busfast.data.table import Table
from busfast.errors import UserError, suggest_path

NAMES = {"train": "train", "training": "train", "trn": "train", "valid": "valid", "val": "valid",
         "validation": "valid", "dev": "valid", "test": "test", "testing": "test", "tst": "test", UNUSED: UNUSED}
IMAGE_COLUMNS = ("image", "imageid", "file", "filename", "imagefilename", "path", "filepath", "imagepath", "img",
                 "name", "id")
LABEL_COLUMNS = ("label", "class", "classification", "diagnosis", "dx", "pathology", "target")
PART_COLUMNS = ("part", "split", "set", "fold", "subset", "originalsplit")
SUFFIXES = (".csv", ".txt", ".tsv")


def is_list_path(split: str) -> bool:
    """Returns whether a split is the path of lists, not the name of a way to split."""
    return split not in (*SPLITS, "all") and (any(sign in split for sign in "/\\.") or os.path.exists(split))


def read_lists(path: str | Path, table: Table, classes: tuple[str, ...]) -> Split:
    """Reads lists made elsewhere; a row on no list is unused, a row on the lists of several parts is in each of them.

    `path` is a CSV file with a column image and a column part (or split, set): train, val, test; or a folder with a
    list for each part, such as train.csv, val.txt, test.csv; or, for one of several such sets in a folder
    (`mine_train.csv`, `mine_val.csv`, ...), FOLDER/mine. A .txt file has one path per line. UserError if a list names
    an image that is not in the table, or another label than the table does.
    """
    name, path, rows = str(path), Path(path), table.rows
    files = _find(path)
    find = _Finder(rows)
    wanted, twice = {}, 0  # wanted: row -> its parts
    for file, part in files:
        for line, name, label, given in _entries(file, part):
            position = find(file, line, name)
            if label:
                _check_label(file, line, label, rows["label"].iloc[position], classes)
            parts = wanted.setdefault(position, [])
            if given in parts:
                twice += 1
            else:
                parts.append(given)
    positions = [position for position in range(len(rows)) for _ in wanted.get(position, [UNUSED])]
    rows = rows.iloc[positions].reset_index(drop=True)
    rows["part"] = [part for position in range(len(table)) for part in wanted.get(position, [UNUSED])]
    _check_parts(path, rows, classes)
    return Split(rows, table.root, table.file, _notes(files, rows, twice), table.pixels, name)


def _find(path: Path) -> list[tuple[Path, str]]:
    """Returns the files of the lists, each with its part ("": the file has a column for it)."""
    if os.path.isfile(path):
        return [(path, "")]
    folder, name = (path, "") if os.path.isdir(path) else (path.parent, path.name)
    sets: dict[str, list[tuple[Path, str]]] = {}
    for file in sorted(folder.glob("*")) if folder.is_dir() else []:
        if file.suffix.lower() in SUFFIXES and file.is_file():
            for ending, part in NAMES.items():
                if file.stem.lower() == ending:
                    sets.setdefault("", []).append((file, part))
                elif file.stem.lower().endswith(("_" + ending, "-" + ending, "." + ending)):
                    sets.setdefault(file.stem[:-len(ending) - 1], []).append((file, part))
    if not name and "" not in sets and len(sets) == 1:
        name = next(iter(sets))
    if name not in sets:
        if not sets:
            files = [str(file) for file in sorted(folder.glob("*.csv"))[:3]] if folder.is_dir() else []
            near = suggest_path(path, lambda one: os.path.isdir(one) or one.suffix in SUFFIXES and one.is_file())
            raise UserError(f"There are no lists at {path}.{near} Name a CSV file with the columns image and part"
                            + (f" (such as {', '.join(files)})" if files else "")
                            + ", or a folder with train.csv, val.csv and test.csv.")
        what = f"no lists called '{name}'" if name else f"the lists of {len(sets)} splits"
        choices = ", ".join(f"--split={folder / name}" for name in sets)
        raise UserError(f"{folder} has {what}. Name one: {choices}.")
    return sets[name]


def _entries(file: Path, part: str) -> Iterable[tuple[int, str, str, str]]:
    """Yields line, image, label ("" if there is none) and part of each entry of a list."""
    if file.suffix.lower() == ".txt":
        lines = [text.strip() for text in read_text(file)[0].splitlines()]
        yield from ((number, text, "", part) for number, text in enumerate(lines, start=1) if text)
        return
    header, rows, _ = read_rows(file, ())
    image, label, own = (_column(header, names) for names in (IMAGE_COLUMNS, LABEL_COLUMNS, PART_COLUMNS))
    if image is None:
        raise UserError(f"{file}, row 1: no column names the image (found: {', '.join(header)}). Call it 'image'; a "
                        "list of paths without a header is a .txt file.")
    if not part and own is None:
        raise UserError(f"{file}, row 1: no column names the part (found: {', '.join(header)}). Call it 'part', with "
                        "train, valid or test in each row.")
    for line, cells in rows:
        given = part
        if own is not None and not part:
            if not (given := NAMES.get(cells[own].lower(), "")):
                raise UserError(f"{file}, row {line}, column {header[own]}: '{cells[own]}' is none of "
                                f"{', '.join(PARTS)}, {UNUSED}.")
        yield line, cells[image], "" if label is None else cells[label], given


def _column(header: list[str], names: tuple[str, ...]) -> int | None:
    titles = [plain(title) for title in header]
    return next((titles.index(name) for name in names if name in titles), None)


class _Finder:
    """Finds the row of an image in a list: by its path, else by its file name, with or without ending."""

    def __init__(self, table: pd.DataFrame):
        self.positions = {image: position for position, image in enumerate(table["image"])}
        self.names = list(self.positions)
        self.find = Finder(self.names, by_name=True)

    def __call__(self, file: Path, line: int, image: str) -> int:
        found = [image] if image in self.positions else self.find(image)
        if not found:
            raise UserError(f"{file}, row {line}: '{image}' is not in the table of images (which has, for instance, "
                            f"'{self.names[0]}'). For another data set, give --data=FOLDER.")
        if len(found) > 1:
            raise UserError(f"{file}, row {line}: '{image}' may be '{found[0]}' or '{found[1]}'. Write the path as in "
                            "the table.")
        return self.positions[found[0]]


def _check_label(file: Path, line: int, label: str, own: str, classes: tuple[str, ...]) -> None:
    try:
        match = match_label(label, classes) if classes else label
    except UserError as error:
        raise UserError(f"{file}, row {line}: {error}") from None
    if match != own:
        raise UserError(f"{file}, row {line}: the label is '{label}', but the table has '{own}'. Correct one of them, "
                        "or remove the column from the list.")


def _check_parts(path: Path, table: pd.DataFrame, classes: tuple[str, ...]) -> None:
    labels = set(table["label"][table["part"] == "train"])
    if not labels:
        raise UserError(f"The lists at {path} name no image for train; training needs it. Add a list of train images.")
    if not table["part"].isin(PARTS[1:]).any():
        raise UserError(f"The lists at {path} name no image for valid; training needs it to choose the best epoch. Add "
                        "a list of valid images.")
    if set(classes) - labels:
        raise UserError(f"The lists at {path} have no {', '.join(sorted(set(classes) - labels))} image for train.")


def _notes(files: list[tuple[Path, str]], rows: pd.DataFrame, twice: int) -> tuple[str, ...]:
    notes = ["lists: " + ", ".join(str(file) for file, _ in files)]
    counts = Counter(rows["part"])
    if counts[UNUSED]:
        notes.append(f"{counts[UNUSED]} of {len(rows)} images are on no list and unused")
    if not counts["test"]:
        notes.append("warning: no image is on a test list")
    if twice:
        notes.append(f"{twice} images are named twice in the same part and used once")
    return tuple(notes)
