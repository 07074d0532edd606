"""Where the images of a table lie: in its folder, or where sources.csv beside the table says."""

import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath

from busfast.csvfile import read_rows
from busfast.errors import UserError
from busfast.files import atomic, make_folder

SOURCES_FILE = "sources.csv"
OWNER_FILE = "about.txt"


def read_source_folders(root: str | Path) -> dict[str, Path]:
    """Returns what the first part of an image's path stands for, name -> folder, by `root/sources.csv`, if it is there.

    Columns: `name`, the first part of paths ("." for all paths that begin otherwise), and `folder`, absolute or
    relative to `root`; an empty cell means the folder `root/name` itself. UserError if it cannot be used.
    """
    file = Path(root) / SOURCES_FILE
    if not file.is_file():
        return {}
    header, rows, _ = read_rows(file, ("name", "folder"))
    folders: dict[str, Path] = {}
    for line, cells in rows:
        name, folder = cells[header.index("name")], cells[header.index("folder")]
        if name in folders:
            raise UserError(f"{file}, row {line}, column name: '{name}' stands there twice. Remove one row.")
        if folder:
            folders[name] = Path(root) / folder
            if not os.path.isdir(folders[name]):  # False, too, for what no folder can be called
                raise UserError(f"{file}, row {line}, column folder: there is no folder '{folder}'. If the images were "
                                "moved, write their new place there.")
    return folders


def locate(root: str | Path, name: str, folders: dict[str, Path]) -> Path:
    """Returns the file of a path, with /, of the table in `root`; `folders` as `read_source_folders` returns them."""
    first, _, rest = name.partition("/")
    if rest and first in folders:
        return folders[first] / rest.lstrip("/")  # "busi//etc" is in busi, not in /
    return folders.get(".", Path(root)) / name


def path_problem(name: str) -> str:
    """Says what is wrong with a path in a table that is to stay in its folder; "" if nothing is."""
    if PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive or name.startswith("\\"):
        return "is an absolute path"
    return "leads out of the data folder" if ".." in PurePosixPath(name.replace("\\", "/")).parts else ""


def home_of(table_file: str | Path) -> Path:
    """Returns the folder for what busfast writes about a data set: that of the table if it lies below data/, else
    data/about-NAME here, since folders of others are left alone. UserError if that is about another data set.
    """
    folder = Path(table_file).resolve().parent
    here = Path("data").resolve()
    if folder == here or here in folder.parents:
        return Path(os.path.relpath(folder))
    home = Path("data") / f"about-{folder.name}"
    owner = home / OWNER_FILE
    if owner.is_file() and (other := owner.read_text(encoding="utf-8").strip()) != str(folder):
        raise UserError(f"{home} is about {other}, not about {folder}. Name a folder for the latter: --out=FOLDER.")
    return home


def claim_home(table_file: str | Path) -> Path:
    """Makes the folder of `home_of`, and writes down what it is about."""
    home, folder = home_of(table_file), Path(table_file).resolve().parent
    make_folder(home)
    if home.resolve() != folder and not (home / OWNER_FILE).is_file():
        with atomic(home / OWNER_FILE) as file:
            file.write(f"{folder}\n")
    return home


def links_out(root: str | Path, names: Iterable[str]) -> dict[str, str]:
    """Returns the images that are reached through a symbolic link out of the folders of a table, and its target."""
    folders = read_source_folders(root)
    sandbox = PathSandbox(root, *folders.values())
    targets = ((name, sandbox.leads_out(locate(root, name, folders))) for name in names)
    return {name: target for name, target in targets if target}


class PathSandbox:
    """Tells whether files lie in the given folders, as they seem to, however many symbolic links there are."""

    def __init__(self, *folders: str | Path):
        self._folders = [os.path.realpath(folder) for folder in folders]
        self._known: dict[str, bool] = {}

    def leads_out(self, path: str | Path) -> str:
        """Returns where a symbolic link on the way to `path` leads, if that is none of the folders; else ""."""
        folder = os.path.dirname(path)
        if folder not in self._known:  # following links is slow, and a folder has many files
            self._known[folder] = self._inside(os.path.realpath(folder))
        if self._known[folder] and not os.path.islink(path):
            return ""
        target = os.path.realpath(path)
        return "" if self._inside(target) else target

    def _inside(self, path: str) -> bool:
        return any(is_inside(path, folder) for folder in self._folders)


def is_inside(path: str, folder: str) -> bool:
    """Tells whether a path is a folder or lies in it; both as `os.path.realpath` returns them."""
    return path == folder or path.startswith(os.path.join(folder, ""))
