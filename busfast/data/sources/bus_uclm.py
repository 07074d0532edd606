"""BUS-UCLM: INFO.csv, images, and masks in color."""

from pathlib import Path

import pandas as pd

from busfast.csvfile import read_rows
from busfast.data.sources.common import Options, table_from_rows
from busfast.data.sources.listing import first_line_has

TITLE = "BUS-UCLM"
LOOKS = "INFO.csv, images and masks"
PUBLISHED = {"normal": 419, "benign": 174, "malignant": 90}
NEEDED = ("Image", "Label", "Doppler", "Marks", "Combined")


def is_set(folder: Path) -> bool:
    """Returns whether a folder is BUS-UCLM."""
    return first_line_has(folder / "INFO.csv", NEEDED)


def read(root: Path, options: Options) -> pd.DataFrame:
    """Reads BUS-UCLM: 38 patients; a patient's images may be of several classes. Normal images have no lesion mask.

    Adds the columns doppler, marks and combined (yes or no: color Doppler, marks burned in, two views in an image).

    Source: Vallez et al. 2025, BUS-UCLM: Breast ultrasound lesion segmentation dataset, Scientific Data 12, 242,
    doi 10.1038/s41597-025-04562-3.
    """
    file = root / "INFO.csv"
    rows = read_rows(file, NEEDED)._replace(notes=[])  # semicolons, as published, are not worth a note
    return table_from_rows(rows, lambda row: {
        "image": f"images/{row['Image']}", "label": row["Label"], "center": TITLE,
        "patient": f"bus_uclm_{row['Image'].rpartition('_')[0]}", "device": "Siemens ACUSON S2000",
        "mask": "" if row["Label"].lower() == "normal" else f"masks/{row['Image']}",
        "doppler": row["Doppler"].lower(), "marks": row["Marks"].lower(), "combined": row["Combined"].lower()},
        root, file, options)
