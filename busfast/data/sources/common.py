"""What the readers of all sources share: their options, and the way from the rows of a set to a table."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pandas as pd

from busfast.csvfile import Rows
from busfast.data.labels import find_classes, match_label
from busfast.data.paths import PathSandbox
from busfast.data.sources.listing import note_links, refuse_link
from busfast.data.table import OPTIONAL, REQUIRED, Table
from busfast.errors import UserError
from busfast.progress import progress
from busfast.yamlfile import yaml_list


class Options(NamedTuple):
    """Options of a reader."""

    files: bool = True  # images and masks must exist; False: read only the table of a set
    partial: bool = False  # leave out rows whose files are missing instead of refusing them
    columns: Mapping[str, str] | None = None  # busfast's names -> names of a CSV file's columns
    center_tag: str = ""  # DICOM keyword that names the center
    key: bytes = b""  # secret for the ids of DICOM patients; without one, ids differ between readings
    prefix: str = ""  # put before patient ids that are unique only within their set
    classes: tuple[str, ...] = ()  # the expected labels; none: those that are found
    label_delim: str = ""  # between the labels of an image, which may have several, or none; "": it has one
    links: str = "follow"  # what to do with symbolic links that lead out of the set: follow or refuse
    patient_from: str = ""  # of class folders: folder, none or a regular expression; "": recognized (see `levels`)


def table_from_rows(rows: Rows, to_record: Callable[[dict[str, str]], dict], root: Path, file: Path,
                    options: Options, masks: Sequence[str] = ("mask",)) -> "SourceTable":
    """Makes the table of a set from its own rows (see `keep_present`, `make_table`); `to_record` renames cells."""
    records = [(line, to_record(dict(zip(rows.header, cells, strict=True)))) for line, cells in rows.rows]
    kept, missing = keep_present(records, root, file, options, masks)
    return make_table(kept, root, options, [*rows.notes, *missing], masks=masks)


@dataclass(frozen=True, eq=False)
class SourceTable(Table):
    """A table as a source gives it, before `prepare` writes it."""

    masks: tuple[str, ...] = ("mask",)  # columns of masks: "", a path, a tuple of paths to be joined, a LabelMe file
    dicom: tuple[str, ...] = ()  # the images that are DICOM files, to be converted


def paths_of(cell: str | tuple[str, ...]) -> tuple[str, ...]:
    """Returns the paths in a cell of an image or mask: none, one, or several to be joined."""
    return cell if isinstance(cell, tuple) else (cell,) if cell else ()


def keep_present(rows: Sequence[tuple[int, dict]], root: Path, file: Path, options: Options,
                 masks: Sequence[str] = ("mask",)) -> tuple[list[dict], list[str]]:
    """Checks the rows (number and cells, paths relative to `root`) of the table `file`; returns those to keep, and
    notes. UserError: a label is empty, a path leads out of `root`, an image is named twice, or files are missing.
    """
    sandbox, first_rows, kept, missing = PathSandbox(root), {}, [], {"images": [], "masks": []}
    links: list[tuple[str, str]] = []
    for line, row in progress(rows, "looking for files"):
        if not (row["label"] or options.label_delim):
            raise UserError(f"{file}, row {line}: the label is empty. Fill it in or remove the row.")
        for column in ("image", *masks):
            for name in paths_of(row[column]):
                _check_inside(name, file, line, column)
                if options.files and not os.path.isfile(root / name):
                    missing["images" if column == "image" else "masks"].append((line, name))
                elif options.files and (target := sandbox.leads_out(root / name)):
                    if options.links == "refuse":
                        refuse_link(root / name, root, target)
                    links.append((name, target))
        first = first_rows.setdefault(row["image"], line)
        if first != line:
            raise UserError(f"{file}, row {line}: the image '{row['image']}' is already in row {first}. Remove one of "
                            "the two rows.")
        kept.append(row)
    counts = " and ".join(f"{len(names)} {kind}" for kind, names in missing.items() if names)
    linked = note_links(len(links), 0, *links[0]) if links else []
    if not counts:
        return kept, linked
    line, name = min(missing["images"] + missing["masks"])
    if not options.partial:
        raise UserError(f"{file}: {counts} of its {len(rows)} rows are not in {root}, e.g. row {line}: '{name}'. "
                        "Download the set again, or leave these rows out: --partial.")
    absent = {name for names in missing.values() for _, name in names}
    for row in kept:
        row.update((column, "") for column in masks if absent.intersection(paths_of(row[column])))
    present = [row for row in kept if row["image"] not in absent]
    return present, [f"{counts} named in {file.name} are missing (e.g. '{name}'): {len(kept) - len(present)} of "
                     f"{len(kept)} rows are left out", *linked]


def _check_inside(name: str, file: Path, line: int, column: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise UserError(f"{file}, row {line}, column {column}: '{name}' leads out of the set's folder. Fix the row.")


def make_table(records: Iterable[dict], root: Path, options: Options, notes: Iterable[str] = (), *,
               masks: Sequence[str] = ("mask",), dicom: Iterable[str] = ()) -> SourceTable:
    """Makes the table of a source: labels mapped to the classes, columns in order; UserError if there are no rows.

    `records` are the cells of each row, at least `image` and `label`; see `SourceTable` for masks and DICOM files.
    """
    records = [dict(record) for record in records]
    if not records:
        raise UserError(f"{root} has 0 images that can be used. " + " ".join(f"({note}.)" for note in notes) +
                        " Name the folder that holds them: --path=FOLDER.")
    columns = list(dict.fromkeys([*REQUIRED, *OPTIONAL, *(name for record in records for name in record)]))
    rows = pd.DataFrame([dict.fromkeys(columns, "") | record for record in records], columns=columns, dtype=object)
    rows["label"], label_notes = map_labels(rows["label"].tolist(), options.classes)
    return SourceTable(rows, root, notes=(*notes, *label_notes), masks=tuple(masks), dicom=tuple(sorted(dicom)))


def map_labels(labels: list[str], classes: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Maps labels to classes; keeps labels that match none. Returns the labels, and notes on both."""
    counts, matches = Counter(labels), {} if classes else find_classes(labels)
    for label in counts if classes else ():
        try:
            matches[label] = match_label(label, classes)
        except UserError:
            matches[label] = label
    mapped = [f"{label} -> {name} ({counts[label]})" for label, name in matches.items() if label != name]
    other = [f"{label} ({counts[label]})" for label, name in matches.items() if classes and name not in classes]
    notes = [f"labels read as classes: {', '.join(mapped)}"] if mapped else []
    if other:
        notes.append(f"labels not among the classes {', '.join(classes)}, and kept: {', '.join(other)}. Name your "
                     f"classes in the pipeline file: classes: {yaml_list(dict.fromkeys(matches.values()))}")
    return [matches[label] for label in labels], notes
