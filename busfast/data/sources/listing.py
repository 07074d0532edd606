"""Which files and folders a source holds."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from busfast.data.images import SUFFIXES
from busfast.data.paths import is_inside
from busfast.data.sources.dicom_file import is_dicom_image
from busfast.errors import UserError, suggest_path
from busfast.text import counted

LEVELS = 2  # a set may lie this many levels below the given folder
CLUTTER = ("__macosx", "thumbs.db", "desktop.ini")
LINKS = ("follow", "refuse")  # what to do with symbolic links that lead out of a folder


def hidden(name: str) -> bool:
    """Returns whether a file or folder is hidden, or was left by an operating system."""
    return name.startswith(".") or name.casefold() in CLUTTER


def subfolders(folder: Path) -> list[Path]:
    """Returns the folders in a folder, sorted, links to folders included; none if it cannot be read."""
    return _entries(folder, lambda entry: entry.is_dir(follow_symlinks=False) or os.path.isdir(entry))


def files_in(folder: Path) -> list[Path]:
    """Returns the files in a folder, sorted, without hidden ones; none if it cannot be read."""
    return _entries(folder, lambda entry: entry.is_file(follow_symlinks=False) or os.path.isfile(entry))


def _entries(folder: Path, accepts: Callable[[os.DirEntry], bool]) -> list[Path]:
    try:
        return sorted(Path(entry.path) for entry in os.scandir(folder) if not hidden(entry.name) and accepts(entry))
    except OSError:
        return []


def find_folders(folder: Path, is_set: Callable[[Path], bool]) -> list[Path]:
    """Returns the folders that `is_set` accepts on the first level, from `folder` itself downwards, that has any."""
    level = [folder]
    for _ in range(LEVELS + 1):
        if sets := [path for path in level if is_set(path)]:
            return sets
        level = [inner for path in level for inner in subfolders(path)]
    return []


def folders_below(folder: Path, most: int = 200) -> list[Path]:
    """Returns a folder and the folders in it, level by level, about `most` of them."""
    found = level = [folder]
    while level and len(found) < most:
        level = [inner for path in level[:most] for inner in subfolders(path)]
        found = [*found, *level]
    return found


def first_line_has(file: Path, names: Sequence[str]) -> bool:
    """Returns whether the first line of a file has all these names; False if it cannot be read."""
    try:
        with open(file, "rb") as opened:
            line = opened.readline(10_000).decode("latin-1")
    except OSError:
        return False
    return all(name in line for name in names)


def is_image(name: str) -> bool:
    """Returns whether a file has the suffix of an image format that busfast reads."""
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def list_images(path: str | Path) -> list[str]:
    """Returns the image files below a folder, sorted and without hidden ones, or the file itself.

    Raises:
        UserError: there is nothing at `path`, or no image in the folder.
    """
    path = Path(path)
    if os.path.isfile(path):
        return [str(path)]
    if not os.path.isdir(path):
        raise UserError(f"There is no file or folder '{path}'.{suggest_path(path)} Name an image, a folder of images, "
                        "or a CSV file with a column image.")
    files = sorted(str(path / name) for name in list_files(path)[0] if is_image(name) or is_dicom_image(path / name))
    if not files:
        raise UserError(f"The folder '{path}' holds no image ({', '.join(SUFFIXES)}, or DICOM).")
    return files


def list_files(root: Path, links: str = "follow") -> tuple[list[str], list[str]]:
    """Lists all files below a folder, without hidden ones, each real folder once.

    Args:
        root: the folder.
        links: what to do with symbolic links that lead out of it: "follow" or "refuse".

    Returns:
        The files, as paths relative to `root` with /, sorted; notes on symbolic links.

    Raises:
        UserError: a folder cannot be read, or a link is refused.
    """
    def stop(error: OSError):
        raise UserError(f"{error.filename} cannot be read: {error.strerror}. Change its permissions.")

    home = os.path.realpath(root)
    names, pending, seen = [], [os.fspath(root)], set()
    files_out, folders_out, dead, again = [], [], [], []  # links: out of `root`, to nothing, to what is listed anyway
    for top in pending:  # links to folders are appended, so that what lies in `root` itself is listed there
        real_top = os.path.realpath(top)
        if real_top in seen:
            again.append(top)
            continue
        if top != pending[0]:
            folders_out.append((top, real_top))
        for folder, folders, files in os.walk(top, onerror=stop):
            real = os.path.normpath(os.path.join(real_top, os.path.relpath(folder, top)))
            if real in seen:
                folders[:] = []
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if not hidden(name))
            for name in folders:
                if os.path.islink(path := os.path.join(folder, name)):  # os.walk lists it, but does not enter it
                    if links == "refuse":
                        refuse_link(path, root, os.path.realpath(path))
                    pending.append(path)
            for name in files:
                path = os.path.join(folder, name)
                if hidden(name):
                    continue
                if os.path.isfile(path):
                    if os.path.islink(path) and not is_inside(target := os.path.realpath(path), home):
                        if links == "refuse":
                            refuse_link(path, root, target)
                        files_out.append((path, target))
                    names.append(os.path.relpath(path, root).replace(os.sep, "/"))
                elif os.path.islink(path):
                    dead.append(path)
    notes = note_links(len(files_out), len(folders_out), *(files_out or folders_out or [("", "")])[0])
    for what, paths in (("to nothing, left out", dead), ("to folders that are listed anyway, not entered", again)):
        if paths:
            more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
            notes.append(f"{counted(len(paths), 'link')} {what}: {', '.join(paths[:3])}{more}")
    return sorted(names), notes


def note_links(files: int, folders: int, link: str, target: str) -> list[str]:
    """Returns a note on symbolic links, such as `link`, that were followed out of a folder; none if none were."""
    kinds = " and ".join(counted(count, kind) for count, kind in ((files, "file"), (folders, "folder")) if count)
    return [f"symbolic links to {kinds} elsewhere are followed, such as {link} -> {target} (prepare --links=refuse "
            "refuses them)"] if kinds else []


def refuse_link(path: str | Path, root: Path, target: str) -> None:
    """Raises the UserError for a symbolic link in `root` that is not to be followed."""
    raise UserError(f"{path} is a symbolic link to {target}, and --links=refuse follows none out of {root}. Name the "
                    "target's folder with --path, copy the files, or leave the flag out.")


def check_text(name: str, root: Path) -> None:
    """Raises UserError if a file name cannot be written to a table."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"{root}: the file name {ascii(name)} is not UTF-8, so a table cannot hold it. "
                        "Rename the file.") from None
