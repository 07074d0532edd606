"""BUSI: class folders, with the masks beside the images."""

import re
from pathlib import Path, PurePosixPath

import pandas as pd

from busfast.data.sources.common import Options, make_table
from busfast.data.sources.listing import check_text, files_in, is_image, list_files, subfolders
from busfast.data.sources.pairs import cell, pair_masks
from busfast.data.table import CLASSES
from busfast.errors import UserError

TITLE = "BUSI"
LOOKS = "class folders with CLASS (1).png and CLASS (1)_mask.png"
PUBLISHED = {"normal": 133, "benign": 437, "malignant": 210}
MASK = re.compile(r"(.+) \(\d+\)_mask(_\d+)?")


def is_set(folder: Path) -> bool:
    """Returns whether a folder is BUSI: a class folder in it has masks that are named after it, beside its images."""
    return any(path.name.lower() in CLASSES and any((match := MASK.fullmatch(file.stem)) and match[1] == path.name
                                                    for file in files_in(path)) for path in subfolders(folder))


def read(root: Path, options: Options) -> pd.DataFrame:
    """Reads BUSI: normal, benign and malignant; an image may have several masks, to be joined.

    The masks of normal images are black and left out. There are no patient ids.

    Source: Al-Dhabyani et al. 2020, Dataset of breast ultrasound images, Data in Brief 28, 104863,
    doi 10.1016/j.dib.2019.104863.
    """
    files, notes = list_files(root, options.links)
    names = [name for name in files if is_image(name) and _folder(name).lower() in CLASSES]
    for name in names:
        check_text(name, root)
    pairs, orphans, _ = pair_masks(names)
    if orphans:
        problem = f"{len(orphans)} masks have no image, e.g. '{orphans[0]}'"
        if not options.partial:
            raise UserError(f"{root}: {problem}. Download the set again, or leave these masks out: --partial.")
        notes.append(f"{problem}; they are left out")
    records, without_mask = [], 0
    for name, masks in pairs.items():
        label = _folder(name)
        normal = label.lower() == "normal"
        records.append({"image": name, "label": label, "center": TITLE, "device": "GE LOGIQ E9",
                        "mask": "" if normal else cell(masks)})
        without_mask += not normal and not masks
    if without_mask:
        notes.append(f"{without_mask} images of lesions have no mask")
    return make_table(records, root, options, notes)


def _folder(name: str) -> str:
    return PurePosixPath(name).parts[0]
