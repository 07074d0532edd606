"""The inputs that a user names -> image files."""

import glob
import os
import sys
from pathlib import Path

from busfast.csvfile import check_header, read_rows
from busfast.data.finder import Finder, files_below
from busfast.data.paths import locate, read_source_folders
from busfast.data.sources.columns import usual_column
from busfast.data.sources.listing import CLUTTER, list_images
from busfast.data.sources.pairs import pair_masks
from busfast.errors import UserError
from busfast.text import counted


def list_inputs(*inputs: str | Path) -> tuple[list[str], list[Path]]:
    """Lists the images of image files, folders, patterns, CSV files with a column `image` (or one that others call so,
    see `usual_column`), or standard input, one after the other.

    A data folder stands for the images of its table. A table's paths are relative to its folder, or to the folders of
    sources.csv beside it; unlike a table to train on, it is the user's own list, so its paths may lead anywhere. The
    files need not exist: their rows in the output will say so.

    Args:
        inputs: paths; patterns such as "scans/**/*.png"; "-": names from standard input, separated by line ends or
            NUL.

    Returns:
        The images as named, and as paths.

    Raises:
        UserError: nothing matches; a table cannot be read or has no column `image`.
    """
    names, paths = zip(*map(_list_input, inputs), strict=True)
    return sum(names, []), sum(paths, [])


def _list_input(inputs: str | Path) -> tuple[list[str], list[Path]]:
    if inputs == "-":
        text = sys.stdin.read()
        names = [name for name in (text.split("\0") if "\0" in text else text.splitlines()) if name]
        if not names:
            raise UserError("Standard input names no image. Give one name per line.")
        return names, [Path(name) for name in names]
    path = Path(inputs)
    if not os.path.exists(path) and glob.has_magic(str(inputs)):
        names = sorted(name for name in glob.glob(str(inputs), recursive=True) if Path(name).is_file()
                       and not any(part.casefold().startswith(("._", *CLUTTER)) for part in Path(name).parts))
        if not names:
            raise UserError(f"No file matches the pattern '{inputs}'.")
        return names, [Path(name) for name in names]
    if os.path.isfile(path / "table.csv"):  # a data folder: its images, not its masks
        path /= "table.csv"
    if path.suffix.lower() != ".csv":
        names = _without_masks(path, list_images(path)) if os.path.isdir(path) else list_images(path)
        return names, [Path(name) for name in names]
    header, rows, _ = read_rows(path, ())
    if (column := usual_column("image", header)) is None:
        check_header(path, header, ("image",))
    names = [cells[header.index(column)] for _, cells in rows]
    folders = read_source_folders(path.parent)
    paths = [locate(path.parent, name, folders) for name in names]
    paths = [file if "\\" not in name or os.path.exists(file)  # False, too, for an invalid file name
             else locate(path.parent, name.replace("\\", "/"), folders)
             for name, file in zip(names, paths, strict=True)]
    lost = [row for row, file in enumerate(paths) if not os.path.isfile(file)]
    find = Finder(files_below(path.parent) if lost else [])
    found = [(row, one[0]) for row in lost if len(one := find(names[row])) == 1]
    for row, file in found:
        paths[row] = path.parent / file
    if found:
        row, file = found[0]
        print(f"  {counted(len(found), 'image')} found by name, such as {file} for '{names[row]}'")
    return names, paths


def _without_masks(folder: Path, names: list[str]) -> list[str]:
    """Leaves out the masks of images in a folder, as `prepare` tells them; prints how many."""
    inside = {Path(name).relative_to(folder).as_posix(): name for name in names}
    images = pair_masks(list(inside), folder).masks
    if not images or len(images) == len(inside):
        return names
    masks = [inside[name] for name in inside if name not in images]
    print(f"  {counted(len(masks), 'file')} left out as masks of images, such as {masks[0]}")
    return [inside[name] for name in inside if name in images]
