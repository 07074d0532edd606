"""Which files and folders a source holds."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from busfast.data.images import SUFFIXES
from busfast.data.paths import PathSandbox
from busfast.errors import UserError

LEVELS = 2  # a set may lie this many levels below the given folder
CLUTTER = ("__macosx", "thumbs.db", "desktop.ini")


def hidden(name: str) -> bool:
    """Returns whether a file or folder is hidden, or was left by an operating system."""
    return name.startswith(".") or name.casefold() in CLUTTER


def subfolders(folder: Path) -> list[Path]:
    """Returns the folders in a folder, sorted, without links; none if it cannot be read."""
    return _entries(folder, lambda entry: entry.is_dir(follow_symlinks=False))


def files_in(folder: Path) -> list[Path]:
    """Returns the files in a folder, sorted, without hidden ones; none if it cannot be read."""
    return _entries(folder, lambda entry: entry.is_file())


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


def list_files(root: Path) -> list[str]:
    """Returns all files below a folder, as paths relative to it with /, sorted; without hidden ones. UserError: a
    folder cannot be read, a link leads out of `root` or to nothing, or a name is not UTF-8.
    """
    def refuse(error: OSError):
        raise UserError(f"{error.filename} cannot be read: {error.strerror}. Change its permissions.")

    sandbox, names = PathSandbox(root), []
    for folder, folders, files in os.walk(root, onerror=refuse):
        folders[:] = sorted(name for name in folders if not hidden(name))
        for name in folders:
            if os.path.islink(path := os.path.join(folder, name)):
                raise UserError(f"{path} is a symbolic link to the folder {os.path.realpath(path)}, which is not "
                                "followed. Name that folder with --path, or copy it here.")
        for name in files:
            if not hidden(name):
                path = os.path.join(folder, name)
                check_link(sandbox, path, root)
                if os.path.isfile(path):
                    names.append(os.path.relpath(path, root).replace(os.sep, "/"))
                elif os.path.islink(path):
                    raise UserError(f"{path} is a symbolic link to nothing ({os.readlink(path)}). Fix or delete it.")
    for name in names:
        check_text(name, root)
    return sorted(names)


def check_link(sandbox: PathSandbox, path: str | Path, root: Path) -> None:
    """Raises UserError if a path leads out of `root` through a symbolic link."""
    if target := sandbox.leads_out(path):
        raise UserError(f"{path} is a symbolic link that leads out of {root}, to {target}. Name the target's folder "
                        "with --path, or copy the file.")


def check_text(name: str, root: Path) -> None:
    """Raises UserError if a file name cannot be written to a table."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"{root}: the file name {ascii(name)} is not UTF-8, so a table cannot hold it. "
                        "Rename the file.") from None
