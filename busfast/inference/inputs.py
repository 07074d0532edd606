"""What a user names as inputs -> image files, as named and where they are."""

import glob
import os
import sys
from pathlib import Path

from busfast.csvfile import read_rows
from busfast.data.paths import locate, read_source_folders
from busfast.errors import UserError
from busfast.pipelines.dataloaders import list_images


def list_inputs(inputs: str | Path) -> tuple[list[str], list[Path]]:
    """Returns the images of an image file, a folder, a pattern, a CSV file with a column `image`, or standard input.

    Of a data folder, these are the images of its table. A table's paths are relative to its folder, or as sources.csv
    beside it says; unlike those of a table to train on, they may lead anywhere, as the other inputs do, for it is the
    user's own list. The files need not exist: their rows say so.

    Args:
        inputs: a path; a pattern such as "scans/**/*.png"; "-": names from standard input, one a line, or with a NUL
            after each.

    Returns:
        The images as named, and as paths.

    Raises:
        UserError: nothing there, no image in the folder, a table that cannot be read or has no column `image`.
    """
    if inputs == "-":
        text = sys.stdin.read()
        names = [name for name in (text.split("\0") if "\0" in text else text.splitlines()) if name]
        if not names:
            raise UserError("Standard input names no image. Give one name a line.")
        return names, [Path(name) for name in names]
    path = Path(inputs)
    if not os.path.exists(path) and glob.has_magic(str(inputs)):
        names = sorted(name for name in glob.glob(str(inputs), recursive=True) if Path(name).is_file())
        if not names:
            raise UserError(f"No file fits the pattern '{inputs}'.")
        return names, [Path(name) for name in names]
    if os.path.isfile(path / "table.csv"):  # a data folder: its images, not its masks
        path /= "table.csv"
    if path.suffix.lower() != ".csv":
        names = list_images(path)
        return names, [Path(name) for name in names]
    header, rows, _ = read_rows(path, ("image",))
    names = [cells[header.index("image")] for _, cells in rows]
    places = read_source_folders(path.parent)
    paths = [locate(path.parent, name, places) for name in names]
    return names, [file if "\\" not in name or os.path.exists(file)  # False, too, for what no file can be called
                   else locate(path.parent, name.replace("\\", "/"), places)
                   for name, file in zip(names, paths, strict=True)]
