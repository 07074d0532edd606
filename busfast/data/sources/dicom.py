"""A folder with one folder per class, of DICOM files."""

from pathlib import Path

import pandas as pd

from busfast.data.sources import folder as folders
from busfast.data.sources.common import Options
from busfast.data.sources.dicom_tags import is_dicom
from busfast.data.sources.listing import files_in, folders_below
from busfast.errors import UserError

TITLE = "DICOM"
LOOKS = "a folder for each class with DICOM files in it"
PUBLISHED: dict[str, int] = {}


def is_set(folder: Path) -> bool:
    """Returns whether one of the first files in the folders below a folder is DICOM."""
    return any(is_dicom(path) for inner in folders_below(folders.find(folder))[1:] for path in files_in(inner)[:3])


def read(root: Path, options: Options) -> pd.DataFrame:
    """Reads class folders of DICOM files, recognized by content; the patient id is a keyed hash of the PatientID."""
    images, dicom, others, notes = folders.sort_files(root, options.links)
    if not dicom:
        raise UserError(f"{root} has 0 DICOM files ({len(images)} images of other kinds, {len(others)} other files). "
                        "For images, use --source=folder.")
    return folders.make(root, [], dicom, [*others, *images], options, notes)
