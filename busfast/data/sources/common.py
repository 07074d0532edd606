"""What the readers of all sources share: where a set lies, which files are there, a table of what was read."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pandas as pd

from busfast.data.images import SUFFIXES
from busfast.data.labels import match_label
from busfast.data.paths import PathSandbox
from busfast.data.table import CLASSES, OPTIONAL, REQUIRED
from busfast.errors import UserError
from busfast.progress import progress

LEVELS = 2  # a set is looked for in the given folder and so many levels below
CLUTTER = ("__macosx", "thumbs.db", "desktop.ini")


class Options(NamedTuple):
    """What a reader is asked for.

    Attributes:
        files: whether images and masks must be there; False where only the table of a set is wanted.
        partial: whether rows whose files are missing are left out, instead of refused.
        columns: names of busfast -> names of a CSV file's columns (csv only).
        center_tag: the DICOM keyword that names the center (DICOM only).
        key: secret for the ids of DICOM patients; without one, the ids are of use for this reading only.
        prefix: put before patient ids that are unique in their own set only.
        classes: the labels that are meant.
    """

    files: bool = True
    partial: bool = False
    columns: Mapping[str, str] | None = None
    center_tag: str = ""
    key: bytes = b""
    prefix: str = ""
    classes: tuple[str, ...] = CLASSES


def hidden(name: str) -> bool:
    """Whether a file or folder is none of the user's: hidden, or left there by an operating system."""
    return name.startswith(".") or name.casefold() in CLUTTER


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted; links are not followed. None where the folder cannot be read."""
    try:
        return sorted(Path(entry.path) for entry in os.scandir(folder)
                      if not hidden(entry.name) and entry.is_dir(follow_symlinks=False))
    except OSError:
        return []


def files_in(folder: Path) -> list[Path]:
    """The files in a folder itself, sorted, without hidden ones; none where the folder cannot be read."""
    try:
        return sorted(Path(entry.path) for entry in os.scandir(folder) if not hidden(entry.name) and entry.is_file())
    except OSError:
        return []


def find_folders(folder: Path, is_set: Callable[[Path], bool]) -> list[Path]:
    """The folders nearest to `folder` (itself, or on one of the levels below) that are such a set."""
    level = [folder]
    for _ in range(LEVELS + 1):
        found = [path for path in level if is_set(path)]
        if found:
            return found
        level = [below for path in level for below in subfolders(path)]
    return []


def first_line_has(file: Path, names: Sequence[str]) -> bool:
    """Whether a file begins with a header that has these columns; False where it cannot be read."""
    try:
        with open(file, "rb") as opened:
            first = opened.readline(10_000).decode("latin-1")
    except OSError:
        return False
    return all(name in first for name in names)


def is_image(name: str) -> bool:
    """Whether a file is called like an image that busfast reads."""
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def list_files(root: Path) -> list[str]:
    """Returns all files below a folder, as paths relative to it with /, sorted; without hidden ones.

    Raises:
        UserError: a folder cannot be read, a link leads out of `root` or to a folder or to nothing, or a name is no
            text.
    """
    def refuse(error: OSError):
        raise UserError(f"{error.filename} cannot be read: {error.strerror}. Give yourself the right to read it.")

    fence, found = PathSandbox(root), []
    for folder, folders, files in os.walk(root, onerror=refuse):
        folders[:] = sorted(name for name in folders if not hidden(name))
        for name in folders:
            if os.path.islink(path := os.path.join(folder, name)):
                raise UserError(f"{path} is a symbolic link to the folder {os.path.realpath(path)}, which is not "
                                "followed. Name that folder with --path, or copy it here.")
        for name in files:
            if not hidden(name):
                path = os.path.join(folder, name)
                check_link(fence, path, root)
                if os.path.isfile(path):
                    found.append(os.path.relpath(path, root).replace(os.sep, "/"))
                elif os.path.islink(path):
                    raise UserError(f"{path} is a symbolic link to nothing ({os.readlink(path)}). Mend or delete it.")
    for name in found:
        check_text(name, root)
    return sorted(found)


def check_link(fence: PathSandbox, path: str | Path, root: Path) -> None:
    """Raises UserError where a symbolic link on the way to a file leads out of `root`."""
    if target := fence.leads_out(path):
        raise UserError(f"{path} is a symbolic link that leads out of {root}, to {target}. Name the folder where the "
                        "files really are with --path, or copy the file.")


def check_text(name: str, root: Path) -> None:
    """Raises UserError where a name cannot be written into a table."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"{root}: the file name {ascii(name)} is not UTF-8 and cannot stand in a table. "
                        "Rename it.") from None


def paths_of(cell: str | tuple[str, ...]) -> tuple[str, ...]:
    """The paths in a cell of an image or mask: none, one, or several that are to be joined."""
    return cell if isinstance(cell, tuple) else (cell,) if cell else ()


def keep_present(rows: Sequence[tuple[int, dict]], root: Path, file: Path, options: Options,
                 masks: Sequence[str] = ("mask",)) -> tuple[list[dict], list[str]]:
    """Checks the rows of a table against the files it names.

    Args:
        rows: number and cells of each row, paths relative to `root`.
        root: folder of the set.
        file: the table, for messages.
        options: see `Options`; without `files` nothing needs to be there, with `partial` what is missing is left out.
        masks: columns that name masks.

    Returns:
        The rows to keep, and notes.

    Raises:
        UserError: a label is empty, a path leads out of `root`, an image is named twice, or files are missing.
    """
    fence, seen, kept, missing = PathSandbox(root), {}, [], {"images": [], "masks": []}
    for line, row in progress(rows, "looking for files"):
        if not row["label"]:
            raise UserError(f"{file}, row {line}: the label is empty. Fill it or remove the row.")
        for column in ("image", *masks):
            for name in paths_of(row[column]):
                _check_inside(name, file, line, column)
                if options.files and not os.path.isfile(root / name):
                    missing["images" if column == "image" else "masks"].append((line, name))
                elif options.files:
                    check_link(fence, root / name, root)
        first = seen.setdefault(row["image"], line)
        if first != line:
            raise UserError(f"{file}, row {line}: the image '{row['image']}' is already in row {first}. Remove one of "
                            "the two.")
        kept.append(row)
    counts = " and ".join(f"{len(gone)} {what}" for what, gone in missing.items() if gone)
    if not counts:
        return kept, []
    line, name = min(missing["images"] + missing["masks"])
    if not options.partial:
        raise UserError(f"{file}: {counts} of its {len(rows)} rows are not in {root}, e.g. row {line}: '{name}'. "
                        "Download the set again, or take what is there: --partial.")
    gone = {name for of in missing.values() for _, name in of}
    for row in kept:
        row.update((column, "") for column in masks if gone.intersection(paths_of(row[column])))
    present = [row for row in kept if row["image"] not in gone]
    return present, [f"{counts} that {file.name} names are not there (e.g. '{name}'): {len(kept) - len(present)} of "
                     f"{len(kept)} rows are left out"]


def _check_inside(name: str, file: Path, line: int, column: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise UserError(f"{file}, row {line}, column {column}: '{name}' leads out of the set's folder. Mend the row.")


def make_table(records: Iterable[dict], root: Path, options: Options, notes: Iterable[str] = (), *,
               masks: Sequence[str] = ("mask",), dicom: Iterable[str] = ()) -> pd.DataFrame:
    """Makes the table of a source: labels mapped to the classes, columns in order.

    Args:
        records: cells of each row, at least `image` and `label`; paths relative to `root`. A mask is "", one path, a
            tuple of paths that are to be joined, or a LabelMe file (.json) that is to be drawn.
        root: folder of the set.
        options: see `Options`.
        notes: what the user should know.
        masks: columns that name masks.
        dicom: the images that are DICOM files, to be converted.

    Returns:
        The table; `attrs` has `root`, `notes`, `masks` and `dicom`.

    Raises:
        UserError: there is no row.
    """
    records = [dict(record) for record in records]
    if not records:
        raise UserError(f"{root} has 0 images that can be used. " + " ".join(f"({note}.)" for note in notes) +
                        " Name the folder that holds them: --path=FOLDER.")
    columns = list(dict.fromkeys([*REQUIRED, *OPTIONAL, *(name for record in records for name in record)]))
    table = pd.DataFrame([dict.fromkeys(columns, "") | record for record in records], columns=columns, dtype=object)
    table["label"], label_notes = map_labels(table["label"].tolist(), options.classes)
    table.attrs = {"root": str(root), "notes": [*notes, *label_notes], "masks": list(masks), "dicom": sorted(dicom)}
    return table


def map_labels(labels: list[str], classes: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Maps labels to classes; those that name none are kept.

    Returns:
        The labels, and notes on what was mapped and what was kept.
    """
    counts, known = Counter(labels), {}
    for label in counts:
        try:
            known[label] = match_label(label, classes)
        except UserError:
            known[label] = label
    mapped = [f"{label} -> {name} ({counts[label]})" for label, name in known.items() if label != name]
    other = [f"{label} ({counts[label]})" for label, name in known.items() if name not in classes]
    notes = [f"labels read as classes: {', '.join(mapped)}"] if mapped else []
    if other:
        notes.append(f"labels that are none of the classes {', '.join(classes)}, and kept: {', '.join(other)}. Name "
                     f"your classes in the pipeline file: classes: [{', '.join(dict.fromkeys(known.values()))}]")
    return [known[label] for label in labels], notes
