"""A folder with one folder per class, of images or DICOM files."""

from collections import Counter
from pathlib import Path, PurePosixPath

import pandas as pd

from busfast.data.labels import plain
from busfast.data.sources.common import Options, make_table
from busfast.data.sources.dicom_tags import is_dicom, read_tags
from busfast.data.sources.listing import LEVELS, files_in, is_image, list_files, subfolders
from busfast.data.sources.pairs import cell, pair_masks
from busfast.data.table import CLASSES
from busfast.errors import UserError

TITLE = "folder"
LOOKS = "a folder for each class with images in it"
PUBLISHED: dict[str, int] = {}
PARTS = {"train": "train", "training": "train", "val": "valid", "valid": "valid", "validation": "valid",
         "test": "test", "testing": "test"}
NO_CLASSES = ("image", "images", "img", "imgs", "mask", "masks", "annotation", "annotations")


def find(path: Path) -> Path:
    """Returns the folder that holds the class folders: `path`, or the only folder in it, as in many archives."""
    for _ in range(LEVELS):
        inner = subfolders(path)
        wrapped = len(inner) == 1 and plain(inner[0].name) not in {*PARTS, *CLASSES}
        if not wrapped or has_images(path) or has_images(inner[0]):
            break
        path = inner[0]
    return path


def is_set(folder: Path) -> bool:
    """Returns whether a folder holds folders with images, or train, val and test with such folders."""
    return any(has_images(path) or any(has_images(inner) for inner in subfolders(path))
               for path in subfolders(find(folder)) if plain(path.name) not in NO_CLASSES)


def read(root: Path, options: Options) -> pd.DataFrame:
    """Reads a folder of class folders: the folder's name is the label.

    NAME_mask.png is the mask of NAME.png. Folders train, val and test above the class folders go into the column
    original_split, which no split uses.
    """
    images, dicom, others = sort_files(root)
    return make(root, images, dicom, others, options)


def sort_files(root: Path) -> tuple[list[str], list[str], list[str]]:
    """Returns the files below a folder: images, DICOM files, others."""
    images, dicom, others = [], [], []
    for name in list_files(root):
        kind = images if is_image(name) else dicom if is_dicom(root / name) else others
        kind.append(name)
    return images, dicom, others


def make(root: Path, images: list[str], dicom: list[str], others: list[str], options: Options) -> pd.DataFrame:
    """Makes the table of class folders from their files; arguments as in `sort_files` and `read`."""
    tags = read_tags(root, dicom, options)
    pairs, orphans = pair_masks(images)
    paths = {name: PurePosixPath(name).parts for name in [*pairs, *tags.patients]}
    records, loose = [], []
    for name in sorted(paths):
        part = PARTS.get(plain(paths[name][0]), "")
        folders = paths[name][1 if part else 0:-1]
        if not folders:
            loose.append(name)
            continue
        _check_nesting(root, name, folders, options)
        records.append({"image": name, "label": folders[0], "center": tags.centers.get(name, ""),
                        "patient": tags.patients.get(name, ""), "mask": cell(pairs.get(name, ())),
                        "original_split": part})
    notes = [*tags.notes]
    if loose:
        notes.append(f"{len(loose)} images outside the class folders are left out, e.g. '{loose[0]}'")
    if masks := sum(bool(record["mask"]) for record in records):
        notes.append(f"{masks} images have a mask beside them (NAME_mask.*)")
    if orphans:
        notes.append(f"{len(orphans)} files are named like masks of missing images, and are left out, e.g. "
                     f"'{orphans[0]}'")
    if others:
        kinds = Counter(PurePosixPath(name).suffix.lower() or "no suffix" for name in others)
        notes.append(f"{len(others)} files are not images, and are left out: "
                     + ", ".join(f"{kind} ({count})" for kind, count in kinds.most_common(5)))
    if any(record["original_split"] for record in records):
        counts = Counter(record["original_split"] or "none" for record in records)
        notes.append("the folders " + ", ".join(f"{part} ({count})" for part, count in sorted(counts.items())) +
                     " are in column original_split, which --split=given takes")
    else:
        for record in records:
            del record["original_split"]
    return make_table(records, root, options, notes, dicom=set(tags.patients) - set(loose))


def _check_nesting(root: Path, name: str, folders: tuple[str, ...], options: Options) -> None:
    classes = [plain(label) for label in options.classes or CLASSES]
    outer = folders[0]
    if plain(outer) in classes:
        return
    if inner := next((label for label in folders[1:] if plain(label) in classes), ""):
        raise UserError(f"{root}: the class folder '{inner}' lies in '{outer}' (e.g. '{name}'). If '{outer}' is a "
                        "center, prepare the folder of each center as its own source: --source=folder,folder "
                        f"--path={root / outer},...")
    if plain(outer) in NO_CLASSES:
        raise UserError(f"{root}: the folder '{outer}' is not named like a class (e.g. '{name}'). Name the folders "
                        "after the classes; if a table has the labels, use --source=csv.")


def has_images(folder: Path) -> bool:
    """Returns whether a folder itself holds images or DICOM files."""
    return any(is_image(path.name) or is_dicom(path) for path in files_in(folder))
