"""A split written down as a file that a person can edit and that training reads."""

import os
import tempfile
from pathlib import Path

import pandas as pd

from busfast.csvfile import read_rows, write_csv
from busfast.data.fingerprint import fingerprint_images
from busfast.data.groups import group_names
from busfast.data.paths import image_paths, path_problem
from busfast.data.split import PARTS, UNUSED
from busfast.errors import UserError
from busfast.files import make_folder
from busfast.text import counted

COLUMNS = ["image", "label", "center", "patient", "device", "mask"]


def write_split(table: pd.DataFrame, path: str | Path) -> None:
    """Writes the split as CSV: a row an image with its group (see `group_names`), part and, if known, pixels' hash."""
    groups = group_names(table, across_centers=False)
    pixels = {"pixels": table["pixels"]} if "pixels" in table else {}
    write_csv(table[COLUMNS].assign(group=groups, part=table["part"], **pixels), path)


def write_splits(splits: dict[str, pd.DataFrame], folder: Path, overwrite: bool = False) -> list[tuple[Path, str]]:
    """Writes several splits, `folder/NAME.csv`; all or, where one of them is in the way, none.

    Args:
        splits: name -> split table.
        folder: is made if it is not there.
        overwrite: replace files of other content (which may have been edited).

    Returns:
        Each file and "wrote", "replaced" or "unchanged".

    Raises:
        UserError: a file has other content and is not to be overwritten, or cannot be written.
    """
    make_folder(folder)
    with tempfile.TemporaryDirectory(prefix=".splits-", dir=folder) as fresh:
        states = {}
        for name, table in splits.items():
            write_split(table, Path(fresh) / f"{name}.csv")
            old = folder / f"{name}.csv"
            same = old.is_file() and old.read_bytes() == (Path(fresh) / f"{name}.csv").read_bytes()
            states[old] = "unchanged" if same else "replaced" if old.exists() else "wrote"
        changed = [path for path, state in states.items() if state == "replaced"]
        if changed and not overwrite:
            raise UserError(f"{changed[0]} is there with another split (or was edited) and is not overwritten. Replace "
                            "it (--overwrite) or name another folder (--out=FOLDER).")
        for path, state in states.items():
            if state != "unchanged":
                os.replace(Path(fresh) / path.name, path)
    return list(states.items())


def read_split(path: str | Path, root: str | Path) -> pd.DataFrame:
    """Reads a split file back; `root` is the folder that its image paths are relative to.

    Raises:
        UserError: as `read_rows`; a part is none of train, valid, test, unused; a path leads out of `root`.
    """
    header, rows, _ = read_rows(path, ("image", "label", "part"))
    table = pd.DataFrame([cells for _, cells in rows], columns=header, dtype=object)
    for (row, _), part in zip(rows, table["part"], strict=True):
        if part not in (*PARTS, UNUSED):
            raise UserError(f"{path}, row {row}, column part: '{part}' is none of {', '.join(PARTS)}, {UNUSED}.")
    for column in {"image", "mask"} & set(header):
        for (row, _), name in zip(rows, table[column], strict=True):
            if wrong := path_problem(name):
                raise UserError(f"{path}, row {row}, column {column}: '{name}' {wrong}. Paths are relative to {root}; "
                                "write it as the table has it.")
    table.attrs["root"] = str(root)
    return table


def find_images(run_name: str, parts: pd.DataFrame) -> list[Path]:
    """Returns the files of a run's images, in order; `run_name` is for errors.

    Raises:
        UserError: an image is gone.
    """
    paths = image_paths(parts)
    gone = [name for name, path in zip(parts["image"], paths, strict=True) if not path.is_file()]
    if gone:
        raise UserError(f"{counted(len(gone), 'image')} of {run_name} cannot be found in {parts.attrs['root']}, such "
                        f"as {gone[0]}. Bring them back; where the folder was moved, name its place in sources.csv.")
    return paths


def check_unchanged(run_name: str, parts: pd.DataFrame) -> list[Path]:
    """Makes sure that the images are there, with the pixels that they had when the run was trained.

    Args:
        run_name: for errors.
        parts: as `read_parts` returns it; without the column `pixels`, changes cannot be seen, which is said.

    Returns:
        The files, in order.

    Raises:
        UserError: an image is gone or was changed.
    """
    paths = find_images(run_name, parts)
    if "pixels" not in parts:
        print(f"{run_name}: its split.csv has no column pixels, so it is not known whether images changed since",
              flush=True)
        return paths
    changed = parts["image"][(fingerprint_images(paths)["pixels"] != parts["pixels"]).to_numpy()]
    if len(changed):
        raise UserError(f"{counted(len(changed), 'image')} of {run_name} changed since it was trained, such as "
                        f"{changed.iloc[0]}. Bring the old ones back, or train again.")
    return paths
