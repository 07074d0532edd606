"""Sources: a public data set, or a user's own files -> a table. One file per public set and per kind of own files."""

import os
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from busfast.data.sources import breast, btxrd, bus_bra, bus_uclm, busi, csv_table, dicom, folder
from busfast.data.sources.common import Options, SourceTable
from busfast.data.sources.listing import find_folders
from busfast.errors import UserError, choose, suggest_path


class Source(NamedTuple):
    """A kind of source; each file in this folder that is one has these as TITLE, LOOKS, is_set, read and PUBLISHED."""

    title: str  # name in messages
    looks: str  # how it is recognized, for messages
    is_set: Callable[[Path], bool]  # whether a folder is such a set
    read: Callable[[Path, Options], SourceTable]  # folder of the set -> `make_table`; UserError if it cannot be used
    published: Mapping[str, int]  # class -> number of images as published; empty for a user's own files


SOURCES = {name: Source(file.TITLE, file.LOOKS, file.is_set, file.read, file.PUBLISHED) for name, file in {
    "busi": busi, "bus_bra": bus_bra, "bus_uclm": bus_uclm, "breast": breast, "btxrd": btxrd,
    "folder": folder, "csv": csv_table, "dicom": dicom}.items()}
OWN = ("dicom", "csv", "folder")  # a user's own files: tried after the public sets
WITH_TABLE = ("bus_bra", "bus_uclm", "breast", "btxrd")  # public sets whose folders are not classes


def guess_source(path: str | Path) -> str:
    """Returns the source that a folder, or one up to two levels below, looks like; "" if none or several."""
    path = Path(path)
    if path.is_file():
        return "csv" if path.suffix.lower() in csv_table.SUFFIXES else ""
    if not path.is_dir():
        return ""
    if public := [name for name in SOURCES if name not in OWN and find_folders(path, SOURCES[name].is_set)]:
        return public[0] if len(public) == 1 else ""
    own = [name for name in OWN if SOURCES[name].is_set(path)]
    if "csv" in own and len(own) > 1:  # a table beside folders of images: does it name them?
        named = csv_table.names_images(csv_table.tables_in(path)[0])
        own = [name for name in own if (name == "csv") == named]
    return own[0] if own else ""


def refuse_source(folder: str | Path) -> None:
    """Raises UserError, with the command to prepare it, if a folder is a source instead of a prepared data folder."""
    folder = Path(folder)
    if os.path.isdir(folder) and not (folder / "table.csv").is_file() and (source := guess_source(folder)):
        raise UserError(f"The folder '{folder}' has no table.csv; it looks like {source} ({SOURCES[source].looks}). "
                        f"Prepare it: python -m busfast prepare --source={source} --path={shlex.quote(str(folder))}")


def read_source(name: str, path: str | Path, options: Options | None = None, **changes) -> SourceTable:
    """Reads the source `name`, in the folder `path` or up to two levels below (for csv also a file); writes nothing.

    `changes` are single options, e.g. files=False to read a set's table without its images. UserError if there is no
    such source, or it cannot be used. The table is as `make_table` returns it.
    """
    choose("source", name, SOURCES)
    options = (options or Options())._replace(**changes)
    path = Path(path)
    if not path.exists():
        commas = " Several folders need several sources: --source=A,B --path=A,B." if "," in str(path) else ""
        what = "the images" if name in OWN else SOURCES[name].title
        raise UserError(f"There is no '{path}'.{suggest_path(path)} Name the folder of {what}: --path=PATH.{commas}")
    return SOURCES[name].read(_find(name, Path(os.path.abspath(path))), options)


def _find(name: str, path: Path) -> Path:
    """Returns the folder of the set, at or below `path`."""
    if name == "csv":
        return path  # the reader checks it
    if name in OWN and path.is_dir():
        inner = folder.find(path)
        if not any(SOURCES[other].is_set(inner) for other in WITH_TABLE):
            return inner
    elif path.is_dir():
        sets = find_folders(path, SOURCES[name].is_set)
        if len(sets) > 1:
            raise UserError(f"{path} holds {SOURCES[name].title} {len(sets)} times: {', '.join(map(str, sets[:5]))}. "
                            "Name one of them: --path=FOLDER.")
        if sets:
            return sets[0]
    guess = guess_source(path)
    again = "" if name in OWN else " download the set again if they are missing,"
    advice = f". Name the folder that holds them,{again} or name another source: {', '.join(SOURCES)}."
    if guess and (name in OWN or guess not in OWN):  # nearly every folder looks like a user's own files
        advice = f"; it looks like {guess} ({SOURCES[guess].looks}). Use --source={guess}."
    raise UserError(f"{path} does not look like {name} ({SOURCES[name].looks}){advice}")
