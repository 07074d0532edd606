"""BUSI: class folders, masks beside the images."""

from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from busfast.data.sources.common import Options, files_in, is_image, list_files, make_table, subfolders
from busfast.data.sources.pairs import MASK, cell, pair_masks
from busfast.data.table import CLASSES
from busfast.errors import UserError

TITLE = "BUSI"
LOOKS = "class folders with NAME.png and NAME_mask.png"
PUBLISHED = {"normal": 133, "benign": 437, "malignant": 210}


def is_set(folder: Path) -> bool:
    """Whether a folder is BUSI: a class folder in it has masks beside its images."""
    return any(path.name.lower() in CLASSES and any(MASK.fullmatch(file.stem) for file in files_in(path))
               for path in subfolders(folder))


def read(root: Path, options: Options) -> pd.DataFrame:
    """Reads BUSI: normal, benign and malignant; the masks of several lesions in an image are to be joined.

    The normal images' masks are black and left away. There are no patient ids.

    Args:
        root: the folder that holds the class folders.
        options: see `Options`.

    Returns:
        See `make_table`.

    Raises:
        UserError: masks are there whose images are not.

    Source: Al-Dhabyani et al. 2020, Dataset of breast ultrasound images, Data in Brief 28, 104863,
    doi 10.1016/j.dib.2019.104863.
    """
    names = [name for name in list_files(root) if is_image(name) and _folder(name).lower() in CLASSES]
    pairs, orphans = pair_masks(names)
    notes = []
    if orphans:
        said = f"{len(orphans)} masks have no image, e.g. '{orphans[0]}'"
        if not options.partial:
            raise UserError(f"{root}: {said}. Download the set again, or take what is there: --partial.")
        notes.append(f"{said}; they are left out")
    records: list[dict[str, Any]] = [{"image": name, "label": _folder(name), "center": TITLE, "device": "GE LOGIQ E9",
                "mask": "" if _folder(name).lower() == "normal" else cell(masks)} for name, masks in pairs.items()]
    bare = Counter(record["label"].lower() != "normal" and not record["mask"] for record in records)[True]
    if bare:
        notes.append(f"{bare} images of lesions have no mask")
    return make_table(records, root, options, notes)


def _folder(name: str) -> str:
    return PurePosixPath(name).parts[0]
