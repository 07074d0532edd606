"""A folder with one folder per class, of images or DICOM files."""

import re
import shlex
from collections import Counter
from hashlib import blake2b
from pathlib import Path, PurePosixPath

from busfast.data.labels import plain
from busfast.data.sources.common import Options, SourceTable, make_table
from busfast.data.sources.dicom_tags import is_dicom, read_tags
from busfast.data.sources.levels import NO_CLASSES, Roles, read_levels
from busfast.data.sources.listing import (
    LEVELS,
    check_text,
    files_in,
    folders_below,
    is_image,
    list_files,
    subfolders,
)
from busfast.data.sources.pairs import are_drawn, cell, is_image_folder, pair_masks
from busfast.data.split import PARTS
from busfast.data.table import CLASSES
from busfast.errors import UserError
from busfast.text import MANY, counted

TITLE = "folder"
LOOKS = "a folder for each class with images in it"
PUBLISHED: dict[str, int] = {}
PART = re.compile("(?:(train|training|trn)|(val|valid|validation|dev)|(test|testing|tst))(set|data|images?|split)?")


def part_of(name: str) -> str:
    """Returns the part of a split that a folder is called after: train, valid, test or ""."""
    match = PART.fullmatch(plain(name))
    return next(part for part, word in zip(PARTS, match.groups(), strict=False) if word) if match else ""


def find(path: Path) -> Path:
    """Returns the folder that holds the class folders: `path`, or the only folder in it, as in many archives."""
    for _ in range(LEVELS):
        inner = subfolders(path)
        wrapped = len(inner) == 1 and not part_of(inner[0].name) and plain(inner[0].name) not in CLASSES
        if not wrapped or has_images(path) or has_images(inner[0]):
            break
        path = inner[0]
    return path


def is_set(folder: Path) -> bool:
    """Returns whether a folder holds, at any depth, images below a folder that may be a class."""
    top = find(folder)
    return any(has_images(path) for path in folders_below(top)[1:]
               if any(plain(part) not in NO_CLASSES for part in path.relative_to(top).parts))


def read(root: Path, options: Options) -> SourceTable:
    """Reads a folder of class folders: the folder's name is the label.

    Other folders may name the patient (see `levels`), masks lie beside images or in folders of their own (see `pairs`).
    Folders train, val and test above or below the class folders go into the column original_split, which no split uses.
    """
    images, dicom, others, notes = sort_files(root, options.links)
    return make(root, images, dicom, others, options, notes)


def sort_files(root: Path, links: str = "follow") -> tuple[list[str], list[str], list[str], list[str]]:
    """Returns the files below a folder: images, DICOM files, others; and notes on links."""
    images, dicom, others = [], [], []
    names, notes = list_files(root, links)
    for name in names:
        check_text(name, root)
        kind = images if is_image(name) else dicom if is_dicom(root / name) else others
        kind.append(name)
    return images, dicom, others, notes


def make(root: Path, images: list[str], dicom: list[str], others: list[str], options: Options,
         notes: list[str]) -> SourceTable:
    """Makes the table of class folders from their files; arguments as in `sort_files` and `read`."""
    tags = read_tags(root, dicom, options)
    pairs, orphans, odd = pair_masks([*images, *tags.patients], root)
    above = {name: list(PurePosixPath(name).parts[:-1]) for name in sorted(pairs)}
    depth = int(all(len(folders) > 1 and part_of(folders[1]) for folders in above.values()))  # benign/train/1.png
    parts, paths, loose = {}, {}, []
    for name, folders in above.items():
        parts[name] = part_of(folders[depth]) if folders else ""
        if parts[name]:
            del folders[depth]
        if folders:
            paths[name] = tuple(folder for folder in folders if not is_image_folder(folder)) or tuple(folders)
        else:
            loose.append(name)
    roles = Roles({}, {}, []) if not paths else \
        read_levels(root, paths, tags.patients, options.classes, options.patient_from)
    tagged = {roles.patients[name]: tag for name, tag in tags.patients.items() if tag and name in roles.patients}
    records = []
    for name in (name for name in paths if name in roles.labels):
        patient = roles.patients.get(name, "")
        if name in tags.patients:  # a folder may have the name of the patient
            patient = tags.patients[name] or tagged.get(patient) or patient and \
                blake2b(patient.encode(), key=options.key, digest_size=6).hexdigest()
        elif patient:
            patient = options.prefix + patient
        records.append({"image": name, "label": roles.labels[name], "center": tags.centers.get(name, ""),
                        "patient": patient, "mask": cell(tuple(mask for mask in pairs[name] if is_image(mask))),
                        "original_split": parts[name]})
    notes = [*notes, *tags.notes, *roles.notes, *odd]
    if loose:
        notes.append(f"{len(loose)} images outside the class folders are left out, e.g. '{loose[0]}'")
    if masks := [(image, found[0]) for image, found in pairs.items() if found]:
        notes.append(f"masks are no images: {counted(sum(map(len, pairs.values())), 'file')}, of "
                     f"{counted(len(masks), 'image')}, e.g. '{masks[0][1]}' of '{masks[0][0]}'")
    notes += _drawn_classes(root, roles.labels)
    if orphans:
        notes.append(f"{len(orphans)} files are named like masks of missing images, and are left out, e.g. "
                     f"'{orphans[0]}'")
    if others:
        kinds = Counter(PurePosixPath(name).suffix.lower() or "no suffix" for name in others)
        notes.append(f"{len(others)} files are not images, and are left out: "
                     + ", ".join(f"{kind} ({count})" for kind, count in kinds.most_common(5)))
    if any(record["original_split"] for record in records):
        counts = Counter(record["original_split"] or "none" for record in records)
        lacking = [part for part in PARTS[1:] if part not in counts]
        notes.append("the folders " + ", ".join(f"{part} ({count})" for part, count in sorted(counts.items())) +
                     " are in column original_split, which --split=given takes" +
                     (f" ({' and '.join(lacking)} is drawn from train)" if len(lacking) == 1 else ""))
    else:
        for record in records:
            del record["original_split"]
    tables = [name for name in others if name.lower().endswith((".csv", ".tsv", ".xlsx"))]
    if tables and not records:
        raise UserError(f"{root} has no class folders with images, but a table, {tables[0]}. If it names the images: "
                        f"python -m busfast prepare --source=csv --path={shlex.quote(str(root / tables[0]))}")
    return make_table(records, root, options, notes, dicom=[record["image"] for record in records
                                                            if record["image"] in tags.patients])


def _drawn_classes(root: Path, labels: dict[str, str]) -> list[str]:
    """Returns a note on each class, of up to `MANY`, of which a few images look like masks."""
    files: dict[str, list[str]] = {}
    for name, label in labels.items():
        files.setdefault(label, []).append(name)
    return [f"warning: all images of the class '{label}' that were looked at are of few colors, such as '{names[0]}': "
            "masks?" for label, names in files.items() if len(files) <= MANY and are_drawn(root, names)]


def has_images(folder: Path) -> bool:
    """Returns whether a folder itself holds images or DICOM files."""
    return any(is_image(path.name) or is_dicom(path) for path in files_in(folder))
