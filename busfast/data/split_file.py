"""A split as a CSV file, which a person may edit and training reads."""

import os
import tempfile
from pathlib import Path

import pandas as pd

from busfast.csvfile import read_rows, write_csv
from busfast.data.fingerprint import fingerprint_images
from busfast.data.groups import group_names
from busfast.data.paths import path_problem
from busfast.data.split import PARTS, UNUSED, Split
from busfast.data.table import as_table
from busfast.errors import UserError
from busfast.files import make_folder
from busfast.text import counted

COLUMNS = ["image", "label", "center", "patient", "device", "mask"]
PERSON = {"age": ("age",), "sex": ("sex", "gender")}  # column -> its names in tables: for scores of subgroups


def of_person(rows: pd.DataFrame) -> dict[str, pd.Series]:
    """Returns the columns age and sex of a table, as far as it has them, whatever they are called there."""
    found = {name: [column for column in rows if column.casefold() in names and (rows[column] != "").any()]
             for name, names in PERSON.items()}
    return {name: rows[columns[0]] for name, columns in found.items() if columns}


def write_split(split: Split | pd.DataFrame, path: str | Path) -> None:
    """Writes a split as CSV: one row an image with its group (see `group_names`), part and, if known, the patient's age
    and sex and the pixels' hash."""
    split = as_table(split)
    rows = split.rows.assign(pixels=split.rows["image"].map(split.pixels)) if split.pixels else split.rows
    columns = {"group": group_names(rows, across_centers=False), "part": rows["part"], **of_person(rows)}
    if "pixels" in rows:
        columns["pixels"] = rows["pixels"]
    write_csv(rows[COLUMNS].assign(**columns), path)


def write_splits(splits: dict[str, Split], folder: Path, overwrite: bool = False) -> list[tuple[Path, str]]:
    """Writes splits, without hashes, as `folder/NAME.csv`; returns each file and "wrote", "replaced" or "unchanged".
    UserError, and no file is written, if one has other content (it may have been edited), unless `overwrite`.
    """
    make_folder(folder)
    with tempfile.TemporaryDirectory(prefix=".splits-", dir=folder) as fresh:
        states = {}
        for name, split in splits.items():
            write_split(split.rows, Path(fresh) / f"{name}.csv")
            old = folder / f"{name}.csv"
            same = old.is_file() and old.read_bytes() == (Path(fresh) / f"{name}.csv").read_bytes()
            states[old] = "unchanged" if same else "replaced" if old.exists() else "wrote"
        changed = [path for path, state in states.items() if state == "replaced"]
        if changed and not overwrite:
            raise UserError(f"{changed[0]} holds another split, or was edited, and is not overwritten. Replace it "
                            "(--overwrite) or name another folder (--out=FOLDER).")
        for path, state in states.items():
            if state != "unchanged":
                os.replace(Path(fresh) / path.name, path)
    return list(states.items())


def read_split(path: str | Path, root: str | Path) -> Split:
    """Reads a split file back; `root` is the folder that its image paths are relative to.

    How the split was made is not in the file, so `name`, `fold`, `holdout` and `leaks` are empty.

    Raises:
        UserError: as `read_rows`; an unknown part; a path that leads out of `root`.
    """
    header, rows, _ = read_rows(path, ("image", "label", "part"))
    frame = pd.DataFrame([cells for _, cells in rows], columns=header, dtype=object)
    for (row, _), part in zip(rows, frame["part"], strict=True):
        if part not in (*PARTS, UNUSED):
            raise UserError(f"{path}, row {row}, column part: '{part}' is none of {', '.join(PARTS)}, {UNUSED}.")
    for column in {"image", "mask"} & set(header):
        for (row, _), name in zip(rows, frame[column], strict=True):
            if wrong := path_problem(name):
                raise UserError(f"{path}, row {row}, column {column}: '{name}' {wrong}. Paths are relative to {root}: "
                                "write it as in the table.")
    return Split(frame, Path(root))


def find_images(run_name: str, split: Split) -> list[Path]:
    """Returns the files of a run's images, in order; UserError, which names `run_name`, if one is missing."""
    paths = split.image_paths()
    gone = [name for name, path in zip(split.rows["image"], paths, strict=True) if not path.is_file()]
    if gone:
        raise UserError(f"{counted(len(gone), 'image')} of {run_name} cannot be found in {split.root}, such as "
                        f"{gone[0]}. Restore them; if the folder was moved, name its new place in sources.csv.")
    return paths


def check_unchanged(run_name: str, split: Split) -> list[Path]:
    """Returns the files of a run's images, in order; UserError if one is missing, cannot be read, or was changed since
    the training. Without a column `pixels`, changes cannot be detected, and a line says so.
    """
    paths, rows = find_images(run_name, split), split.rows
    if "pixels" not in rows:
        print(f"{run_name}: its split.csv has no column pixels, so images were not checked for changes")
        return paths
    found = fingerprint_images(paths).set_index(rows.index)
    changed = rows["image"][found["pixels"] != rows["pixels"]]
    unreadable = found["reason"][changed.index].loc[lambda reason: reason != ""]
    if len(unreadable):
        raise UserError(f"{counted(len(unreadable), 'image')} of {run_name} cannot be read, such as "
                        f"{changed[unreadable.index[0]]}: {unreadable.iloc[0]}. Restore the old ones, or train again.")
    if len(changed):
        raise UserError(f"{counted(len(changed), 'image')} of {run_name} changed since it was trained, such as "
                        f"{changed.iloc[0]}. Restore the old ones, or train again.")
    return paths
