"""Where the images of a table are: in its folder, or in the folders that sources.csv beside the table names."""

import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath

from busfast.csvfile import read_rows
from busfast.errors import UserError
from busfast.files import atomic, make_folder

SOURCES_FILE = "sources.csv"
OWNER_FILE = "about.txt"


def read_source_folders(root: str | Path) -> dict[str, Path]:
    """Reads `root/sources.csv`, if it exists: name -> folder that the first part of an image's path stands for.

    Columns: `name`, the first part of paths ("." for all other paths), and `folder`, absolute or relative to `root`
    (empty: `root/name`). UserError if a name occurs twice or a folder does not exist.
    """
    file = Path(root) / SOURCES_FILE
    if not file.is_file():
        return {}
    header, rows, _ = read_rows(file, ("name", "folder"))
    folders: dict[str, Path] = {}
    for line, cells in rows:
        name, folder = cells[header.index("name")], cells[header.index("folder")]
        if name in folders:
            raise UserError(f"{file}, row {line}, column name: '{name}' occurs twice. Remove one row.")
        if folder:
            folders[name] = Path(root) / folder
            if not os.path.isdir(folders[name]):
                raise UserError(f"{file}, row {line}, column folder: there is no folder '{folder}'. If the images were "
                                "moved, write their new folder there.")
    return folders


def locate(root: str | Path, name: str, folders: dict[str, Path]) -> Path:
    """Returns the file of a path (with /) in the table of `root`; `folders` as `read_source_folders` returns them."""
    first, _, rest = name.partition("/")
    if rest and first in folders:
        return folders[first] / rest.lstrip("/")  # "busi//etc" is busi/etc, not /etc
    return folders.get(".", Path(root)) / name


def path_problem(name: str) -> str:
    """Returns why a path in a table may lie outside its folder; "" if it cannot."""
    if name[:1] != "/" and not any(sign in name for sign in ("..", "\\", ":")):
        return ""  # nearly all; what follows takes longer than finding the file
    if PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive or name.startswith("\\"):
        return "is an absolute path"
    return "leads out of the data folder" if ".." in PurePosixPath(name.replace("\\", "/")).parts else ""


def home_of(table_file: str | Path) -> Path:
    """Returns the folder that audit and splits of a data set are written to: the table's own if that is below data/,
    otherwise data/about-NAME, for no other folder is written to. UserError if that belongs to another data set.
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
    """Creates the folder of `home_of`, and records in it which data set it belongs to."""
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
    """Detects symbolic links that lead out of a set of folders."""

    def __init__(self, *folders: str | Path):
        self._folders = [os.path.realpath(folder) for folder in folders]
        self._inside_by_folder: dict[str, bool] = {}

    def leads_out(self, path: str | Path) -> str:
        """Returns the target of `path` if symbolic links take it out of the folders; otherwise ""."""
        folder = os.path.dirname(path)
        if folder not in self._inside_by_folder:  # resolving links is slow, and a folder has many files
            self._inside_by_folder[folder] = self._inside(os.path.realpath(folder))
        if self._inside_by_folder[folder] and not os.path.islink(path):
            return ""
        target = os.path.realpath(path)
        return "" if self._inside(target) else target

    def _inside(self, path: str) -> bool:
        return any(is_inside(path, folder) for folder in self._folders)


def is_inside(path: str, folder: str) -> bool:
    """Returns whether a path is a folder or in it; both as `os.path.realpath` returns them."""
    return path == folder or path.startswith(os.path.join(folder, ""))
