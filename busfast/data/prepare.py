"""Downloaded or exported images -> a data folder with the table of one or several sources; nothing is moved.

Everything is read and checked before the first file is written.
"""

import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import pandas as pd

from busfast.csvfile import write_csv
from busfast.data.labels import find_classes
from busfast.data.paths import SOURCES_FILE, is_inside
from busfast.data.sources import SOURCES, read_source
from busfast.data.sources.common import Options, SourceTable
from busfast.data.sources.dicom_file import DicomError, Refused
from busfast.data.sources.dicom_frames import pick_frames, take_frames
from busfast.data.sources.listing import LINKS, check_text
from busfast.data.sources.pages import take_pages
from busfast.data.sources.plan import Made, check_files, plan
from busfast.data.table import OPTIONAL, REQUIRED, Table, read_table
from busfast.errors import UserError, choose
from busfast.progress import progress
from busfast.text import counted


def prepare(sources: Sequence[str], paths: Sequence[str | Path], out: str | Path, *, copy: bool = False,
            partial: bool = False, columns: Mapping[str, str] | None = None, images: str = "",
            center: str | Sequence[str] = "", center_tag: str = "", salt: str = "", link: str | Path | None = None,
            classes: Sequence[str] = (), patient_from: str = "", links: str = "follow", frames: str = "",
            pages: str = "", label_delim: str = "") -> Table:
    """Makes a data folder from one or several sources: table.csv, sources.csv, and converted masks and images.

    Arguments are as the flags of the verb `prepare`; `center` is one for all sources, or one for each. Returns the
    table as written; UserError for wrong arguments or files, and nothing was changed.
    """
    sources = [sources] if isinstance(sources, str) else list(sources)
    paths = [paths] if isinstance(paths, str | Path) else list(paths)
    out = Path(out)
    centers = [center] * len(sources) if isinstance(center, str) else [str(name) for name in center]
    _check_request(sources, paths, centers, {"columns": columns, "images": images}, out)
    names = [name if name not in sources[:position] else f"{name}-{sources[:position].count(name) + 1}"
             for position, name in enumerate(sources)]
    choose("value of --links", links, LINKS)
    for flag, given in (("frames", frames), ("pages", pages)):
        if given:
            pick_frames(given, 1, flag)  # refuses another word
    if patient_from and not {"folder", "dicom"} & {*sources}:
        raise UserError(f"--patient_from={patient_from} is for --source=folder and dicom; others name the patient "
                        "in their table (for csv: --columns=patient=COLUMN). Leave it out.")
    if label_delim and {*sources} - {"folder", "csv"}:
        raise UserError(f"--label_delim={label_delim} is for --source=folder and csv; the images of others have one "
                        "label. Leave it out.")
    options = Options(partial=partial, center_tag=center_tag, classes=tuple(classes), links=links,
                      patient_from=patient_from, frames=frames, label_delim=label_delim,
                      key=blake2b(str(salt).encode()).digest() if salt else secrets.token_bytes(32))
    tables = []
    for name, source, path in zip(names, sources, paths, strict=True):
        prefix = f"{name}_" if len(names) > 1 else ""
        table = read_source(source, path, options, prefix=prefix, columns=columns if source == "csv" else None,
                            images=images if source == "csv" else "")
        tables.append(take_pages(take_frames(check_files(table), frames), pages))
    tables = _fill_centers(tables, centers)
    _check_folders(tables, out, link)
    _check_dicom_options(tables, center_tag=center_tag, salt=salt, link=link, frames=frames)

    rows, made, linked, listed = [], {}, {}, []
    for name, source, table in zip(names, sources, tables, strict=True):
        _print_source(table, source, salt)
        new_rows, new_made, new_linked = plan(table, name, copy)
        rows, made, linked = rows + new_rows, made | new_made, linked | new_linked
        in_place = not copy and len(new_linked) < len(table)  # otherwise no image stays in its folder
        listed.append({"name": name, "folder": str(table.root) if in_place else "", "source": source,
                       "images": [row["image"] for row in new_rows]})
    columns_found = dict.fromkeys([*REQUIRED, *OPTIONAL, *(name for row in rows for name in row)], "")
    result = pd.DataFrame([columns_found | row for row in rows], columns=list(columns_found), dtype=object)
    result = _write(out, result, listed, made, Path(link) if link else None, linked, partial, label_delim)
    print(f"Written: {out} (table.csv: {counted(len(result), 'image')}"
          + (f"; {counted(len(made), 'file')} made" if made else "") + ")")
    if link:
        print(f"  {link} names the DICOM file of each image, and so the patient: do not keep it with {out}")
    return Table(result, out, out / "table.csv")


def _check_request(sources: list[str], paths: list, centers: list[str], of_csv: Mapping, out: Path) -> None:
    for source in sources:
        choose("source", source, SOURCES)
    if not sources or len(sources) != len(paths):
        raise UserError(f"{len(sources)} sources ({', '.join(sources)}) need as many paths, not {len(paths)} "
                        f"({', '.join(map(str, paths))}): --source=A,B --path=FOLDER_OF_A,FOLDER_OF_B.")
    pairs = [(source, os.path.realpath(path)) for source, path in zip(sources, paths, strict=True)]
    if twice := [path for source, path in pairs if pairs.count((source, path)) > 1]:
        raise UserError(f"--path names {twice[0]} twice, which would duplicate all its images. Name it once.")
    if len(centers) != len(sources):
        raise UserError(f"{len(centers)} centers for {len(sources)} sources. Name one for all, or one for each.")
    for name in (name for name, value in of_csv.items() if value and "csv" not in sources):
        raise UserError(f"--{name} is for --source=csv; other sources have fixed columns and places. Leave it out.")
    if of_csv["images"] and not os.path.isdir(of_csv["images"]):
        raise UserError(f"There is no folder '{of_csv['images']}'. Name the one that the paths in the CSV file begin "
                        "from: --images=FOLDER.")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} already holds files, and busfast does not overwrite them. Name another folder: "
                        "--out=FOLDER, or delete this one.")


def _fill_centers(tables: list[SourceTable], centers: list[str]) -> list[SourceTable]:
    """Names the center of images that have none."""
    filled, result = 0, []
    for table, center in zip(tables, centers, strict=True):
        blank = table.rows["center"] == ""
        if center:
            table = replace(table, rows=table.rows.assign(center=table.rows["center"].mask(blank, center)))
            filled += int(blank.sum())
        elif blank.any():
            table = replace(table, notes=(*table.notes, f"{counted(blank.sum(), 'image')} without a center; "
                                                        "name it: --center=NAME"))
        result.append(table)
    if any(centers) and not filled:
        raise UserError(f"--center={','.join(filter(None, centers))} changes nothing: each image already has a center "
                        f"({', '.join(sorted({*pd.concat([table.rows['center'] for table in tables])}))}). "
                        "Leave it out.")
    return result


def _check_folders(tables: list[SourceTable], out: Path, link: str | Path | None) -> None:
    for table in tables:
        root = table.root
        check_text(str(root), root.parent)
        tops = {root / image.partition("/")[0] for image in table.rows["image"]} if table.wide else {root}
        for what, path in (("--out", out), ("--link", link)):
            if path and any(is_inside(os.path.realpath(path), os.path.realpath(top)) for top in tops):
                raise UserError(f"{what}={path} is in the source {root}, which busfast does not change. "
                                f"Name another path: {what}=PATH.")
    if link and is_inside(os.path.realpath(link), os.path.realpath(out)):
        raise UserError(f"--link={link} is in {out}, and would be passed on with the images. Name a file elsewhere.")
    if link and (os.path.lexists(link) or not Path(link).absolute().parent.is_dir()):
        raise UserError(f"--link={link} must be a new file in an existing folder. Name another: --link=FILE.")


def _check_dicom_options(tables: list[SourceTable], **options) -> None:
    given = [name for name, value in options.items() if value]
    if given and not any(table.dicom for table in tables):
        raise UserError(f"--{given[0]} is for DICOM files, and the sources have none. Leave it out.")


def _print_source(table: SourceTable, source: str, salt: str) -> None:
    """Prints what was read, compared with what was published."""
    counts = {label: int((table.rows["label"] == label).sum()) for label in find_classes(table.rows["label"])}
    published = {label: count for label in find_classes(SOURCES[source].published)
                 if (count := SOURCES[source].published[label])}
    patients = table.rows["patient"][table.rows["patient"] != ""].nunique()
    text = f"{SOURCES[source].title}: {len(table)} images ({_listed(counts)})" + \
        (f" of {counted(patients, 'patient')}" if patients else "")
    if published and counts == published:
        text += ", as published"
    elif published:
        surplus = len(table) - sum(published.values())
        text += f"; differs from the published {sum(published.values())} ({_listed(published)})" + \
            (f": {abs(surplus)} {'more' if surplus > 0 else 'fewer'}" if surplus else "")
    print(text)
    print(f"  read from {table.root}")
    for note in table.notes:
        print(f"  {note}")
    if table.dicom:
        print("  patient ids are derived from your salt: whoever has it can identify the patients" if salt else
              "  patient ids are derived from a random key that is not kept: another prepare gives other ids; "
              "--salt=SECRET gives the same ones")


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{label} {count}" for label, count in counts.items())


def _write(out: Path, table: pd.DataFrame, listed: list[dict], made: Made, link: Path | None, linked: dict[str, Path],
           partial: bool, label_delim: str) -> pd.DataFrame:
    """Writes the new folder under another name, and renames it when it is complete; returns the table without the DICOM
    files whose pixels turned out to be broken."""
    target = out.resolve()  # so that a link to a folder is followed, not replaced
    work, linked_file = target.parent / f".prepare-{secrets.token_hex(4)}", None
    try:
        work.mkdir(parents=True)
        left: set[str] = set()
        refused = Refused()
        for name, make in progress(made.items(), "making images and masks"):
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            try:
                make(work / name)
            except DicomError as error:
                left.add(name)
                refused.add(str(linked[name]), error)
        table = table[~table["image"].isin(left)].reset_index(drop=True)
        if not partial or not len(table):
            refused.refuse()
        for name in left and made.keys() - {*table.to_numpy().ravel()}:  # masks, too
            (work / name).unlink(missing_ok=True)
            del made[name]
        for line in refused.lines():
            print(f"  left out: {line}")
        write_csv(table, work / "table.csv")
        write_csv(pd.DataFrame([row | {"images": len({*row["images"]} - left)} for row in listed]), work / SOURCES_FILE)
        read_table(work, tuple(table["label"].unique()), label_delim=label_delim)  # checks what was written
        if link:
            kept = [name for name in linked if name not in left]
            _write_private(link, pd.DataFrame({"image": kept, "source": [str(linked[name]) for name in kept]}))
            linked_file = link
        if target.exists():
            target.rmdir()  # it is empty, but not every system renames onto an empty folder
        os.rename(work, target)
        linked_file = None
        return table
    except UserError as error:
        raise UserError(str(error).replace(str(work), str(out))) from error
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror or error} ({error.filename or work.parent}). "
                        "Make room or name another folder: --out=FOLDER.") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)  # has no effect after the rename
        if linked_file:
            linked_file.unlink(missing_ok=True)


def _write_private(path: Path, table: pd.DataFrame) -> None:
    """Writes a CSV file that only this user can read, from the start."""
    previous = os.umask(0o077)
    try:
        write_csv(table, path)
    finally:
        os.umask(previous)
