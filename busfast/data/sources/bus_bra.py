"""BUS-BRA: bus_data.csv, Images and Masks."""

from pathlib import Path

import pandas as pd

from busfast.csvfile import read_rows
from busfast.data.sources.common import Options, table_from_rows
from busfast.data.sources.listing import first_line_has

TITLE = "BUS-BRA"
LOOKS = "bus_data.csv, Images and Masks"
PUBLISHED = {"normal": 0, "benign": 1268, "malignant": 607}
NEEDED = ("ID", "Case", "Histology", "Pathology", "BIRADS", "Device", "Side")


def is_set(folder: Path) -> bool:
    """Returns whether a folder is BUS-BRA."""
    return first_line_has(folder / "bus_data.csv", ("ID", "Pathology"))


def read(root: Path, options: Options) -> pd.DataFrame:
    """Reads BUS-BRA: biopsy-proven lesions of 1064 patients, four devices, one hospital. Adds birads, histology, side.

    Source: Gomez-Flores et al. 2024, BUS-BRA: A breast ultrasound dataset for assessing computer-aided diagnosis
    systems, Medical Physics 51(4), doi 10.1002/mp.16812.
    """
    file = root / "bus_data.csv"
    return table_from_rows(read_rows(file, NEEDED), lambda row: {
        "image": f"Images/{row['ID']}.png", "label": row["Pathology"], "center": TITLE,
        "patient": f"bus_bra_{row['Case']}", "device": row["Device"],
        "mask": f"Masks/mask_{row['ID'].removeprefix('bus_')}.png",
        "birads": row["BIRADS"], "histology": row["Histology"], "side": row["Side"]}, root, file, options)
