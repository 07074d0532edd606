"""What the readers of all sources share: their options, and the way from the rows of a set to a table."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pandas as pd

from busfast.csvfile import Rows
from busfast.data.finder import Finder, files_below, path_key
from busfast.data.labels import find_classes, find_delimiter, match_label, note_writings, plain, split_labels
from busfast.data.paths import PathSandbox
from busfast.data.sources.listing import note_links, refuse_link
from busfast.data.table import OPTIONAL, REQUIRED, Table
from busfast.errors import UserError
from busfast.progress import progress
from busfast.text import SIGNS, composed, counted, is_class_name
from busfast.yamlfile import yaml_list


class Options(NamedTuple):
    """Options of a reader."""

    files: bool = True  # images and masks must exist; False: read only the table of a set
    partial: bool = False  # leave out rows whose files are missing, or DICOM without an image, instead of refusing them
    columns: Mapping[str, str] | None = None  # busfast's names -> names of a CSV file's columns
    center_tag: str = ""  # DICOM keyword that names the center
    key: bytes = b""  # secret for the ids of DICOM patients; without one, patients are numbered
    frames: str = ""  # which frames of a DICOM file of several become images; "": such files are refused
    prefix: str = ""  # put before patient ids that are unique only within their set
    classes: tuple[str, ...] = ()  # the expected labels; none: those that are found
    images: str = ""  # folder that the paths of a CSV file begin from; "": the file's own
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
    dicom: Mapping[str, tuple[str, int | None]] = field(default_factory=dict)  # image that is DICOM -> file, frame
    pages: Mapping[str, tuple[str, int]] = field(default_factory=dict)  # image that is a page -> file, page
    wide: bool = False  # whether `root` is only what the folders of the images have in common


def paths_of(cell: str | tuple[str, ...]) -> tuple[str, ...]:
    """Returns the paths in a cell of an image or mask: none, one, or several to be joined."""
    return cell if isinstance(cell, tuple) else (cell,) if cell else ()


def keep_present(rows: Sequence[tuple[int, dict]], root: Path, file: Path, options: Options,
                 masks: Sequence[str] = ("mask",), *, own: bool = False) -> tuple[list[dict], list[str]]:
    """Finds the files of the rows (number and cells, paths relative to `root`) of the table `file`; returns the rows to
    keep, one an image, and notes. `own`: the table is the user's, not that of a public set. UserError: a label is
    empty, a path leads out of `root`, rows of one image contradict each other, or files are missing.
    """
    sandbox, places = PathSandbox(root), _Places(root)
    first: dict[str, tuple[int, str, dict]] = {}  # image -> line, path as written and cells of its first row
    missing: dict[str, list[tuple[int, str]]] = {"images": [], "masks": []}
    repeated, different = 0, dict[str, None]()
    links: list[tuple[str, str]] = []
    for line, row in progress(rows, "looking for files"):
        if not (row["label"] or options.label_delim):
            raise UserError(f"{file}, row {line}: the label is empty. Fill it in or remove the row.")
        written = row["image"]
        for column in ("image", *masks):
            names = [*paths_of(row[column])]
            for position, name in enumerate(names):
                if not own:
                    _check_inside(name, file, line, column)
                if options.files or own:
                    names[position] = places.find(name, masks=column != "image")
                if options.files and not names[position]:
                    missing["images" if column == "image" else "masks"].append((line, name))
                elif options.files and (target := sandbox.leads_out(root / names[position])):
                    if options.links == "refuse":
                        refuse_link(root / names[position], root, target)
                    links.append((names[position], target))
                names[position] = names[position] or name
            row[column] = tuple(names) if isinstance(row[column], tuple) else "".join(names)
        before, other, same = first.setdefault(row["image"], (line, written, row))
        if same is row:
            continue
        repeated += 1
        keys = {path_key(other), path_key(written)}
        if len(keys) > 1 and not all(path_key(row["image"]).endswith(key) for key in keys):
            raise UserError(f"{file}, row {line}: '{written}' and, in row {before}, '{other}' would both be the file "
                            f"'{row['image']}'. Correct the paths.")
        different |= dict.fromkeys(_join_rows(same, row, masks, f"{file}, rows {before} and {line}", options))
    kept = [row for _, _, row in first.values()]
    notes = places.notes()
    if repeated:
        labels = "whose labels are joined" if options.label_delim else "with the same label"
        notes.append(f"{counted(repeated, 'row')} of images that earlier rows name, {labels}: each image is read "
                     "once" + (f", with its first {', '.join(different)}" if different else ""))
    counts = " and ".join(f"{len(names)} {kind}" for kind, names in missing.items() if names)
    linked = note_links(len(links), 0, *links[0]) if links else []
    if not counts:
        return kept, [*notes, *linked]
    line, name = min(missing["images"] + missing["masks"])
    if not options.partial:
        near = places.finder(name) if places.finder else []
        way_out = ("Correct the paths, name the folder that holds the images (prepare --images=FOLDER)" if own else
                   "Download the set again") + ", or leave these rows out (prepare --partial)."
        raise UserError(f"{file}: {counts} of its {len(rows)} rows are not in {root}, e.g. row {line}: '{name}'"
                        + (f" (which may be {' or '.join(near[:3])})" if near else "") + f". {way_out}")
    absent = {name for names in missing.values() for _, name in names}
    for row in kept:
        row.update((column, "") for column in masks if absent.intersection(paths_of(row[column])))
    present = [row for row in kept if row["image"] not in absent]
    return present, [*notes, f"{counts} named in {file.name} are missing (e.g. '{name}'): {len(kept) - len(present)} "
                             f"of {len(kept)} rows are left out", *linked]


class _Places:
    """Where the files of a set are, some of them under another writing of their path."""

    def __init__(self, root: Path):
        self.root = root
        self.finder: Finder | None = None  # made when it is needed
        self.found: dict[str, str] = {}  # path as written -> path of the file

    def find(self, name: str, *, masks: bool) -> str:
        """Returns the path of a file, relative to `root`; "" if there is none, or not only one that can be meant."""
        if os.path.isfile(self.root / name):
            return name
        self.finder = self.finder or Finder(files_below(self.root))
        near = self.finder(name, masks=masks)
        if len(near) != 1:
            return ""
        self.found[name] = near[0]
        return near[0]

    def notes(self) -> list[str]:
        """Returns how many files were found otherwise than they are written."""
        return [f"{counted(len(self.found), 'file')} found by name, such as {path} for '{name}'"
                for name, path in [*self.found.items()][:1]]


def _join_rows(first: dict, row: dict, masks: Sequence[str], where: str, options: Options) -> list[str]:
    """Joins a further row of an image to its first one: its masks, and of several labels all. Returns the columns that
    differ and mean nothing to busfast (such as those of a bounding box); UserError if one that does contradicts."""
    if options.label_delim:
        labels = [label for one in (first, row) for label in split_labels(one["label"], options.label_delim)]
        first["label"] = row["label"] = options.label_delim.join(dict.fromkeys(labels))
    for column in masks:
        names = tuple(dict.fromkeys((*paths_of(first[column]), *paths_of(row[column]))))
        if not any(name.endswith(".json") for name in names):
            first[column] = row[column] = names if len(names) > 1 else "".join(names)
    if plain(row["label"]) == plain(first["label"]):
        row["label"] = first["label"]
    differ = [name for name in row if row[name] != first.get(name, "")]
    if wrong := [name for name in ("label", *OPTIONAL, "group", "original_split") if name in differ]:
        several = "" if wrong[0] != "label" else (" If an image has several labels, train on this file itself with "
                                                  "--label_delim='|', which joins them.")
        raise UserError(f"{where}: they name the same image, '{first['image']}', with the {wrong[0]} "
                        f"'{first[wrong[0]]}' and '{row[wrong[0]]}'. Correct or remove one of them.{several}")
    return differ


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
    for name in ("label", *OPTIONAL[:3]):
        rows[name] = rows[name].map(composed)
    rows["label"], label_notes = map_labels(rows["label"].tolist(), options.classes)
    if not options.label_delim:
        label_notes += _note_labels(rows["label"].tolist())
    label_notes += note_writings("patient", rows["patient"]) + note_writings("center", rows["center"])
    return SourceTable(rows, root, notes=(*notes, *label_notes), masks=tuple(masks),
                       dicom={image: (image, None) for image in sorted(dicom)})


def _note_labels(labels: list[str]) -> list[str]:
    """Says which labels seem to be several, and which cannot be those of a training."""
    delim, held = find_delimiter(labels)
    notes = [f"{len(held)} of {len(labels)} labels hold '{delim}', such as '{labels[held[0]]}': if an image has "
             f"several labels, audit, split and train with --label_delim='{delim}'; with one label an image, rename "
             "these classes"] if held else []
    single = {*labels} - {labels[row] for row in held}
    if wrong := [repr(label) for label in sorted(single) if not is_class_name(label)]:
        notes.append(f"{', '.join(wrong)} cannot name a class to train: a name begins with a letter or digit and has "
                     f"no signs but {' '.join(SIGNS.strip())} and _. Rename it, unless you leave it out")
    return notes


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
