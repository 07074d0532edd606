"""How large the lesions are, by their masks, so that scores can be shown for small and large ones."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from busfast.data.images import read_image
from busfast.data.paths import locate, read_source_folders
from busfast.processes import cores
from busfast.text import counted


def add_lesion_area(rows: pd.DataFrame, root: str | Path) -> pd.DataFrame:
    """Returns rows with a column lesion_area: the share of the image that its mask covers, as text; "" without a mask,
    or if it is empty or cannot be read (a line says so). `root`: the folder of the table."""
    if "mask" not in rows or not (rows["mask"] != "").any():
        return rows
    folders = read_source_folders(root)

    def area(mask: str) -> str | None:
        path = locate(root, mask, folders) if mask else None
        if path is None or not path.is_file():
            return ""
        try:
            share = (np.asarray(read_image(path, keep_gray=True).convert("L")) > 0).mean()
        except Exception:  # a broken file raises nearly anything
            return None
        return f"{share:.4g}" if share else ""

    with ThreadPoolExecutor(cores()) as pool:
        areas = list(pool.map(area, rows["mask"]))
    if broken := [mask for mask, found in zip(rows["mask"], areas, strict=True) if found is None]:
        print(f"  {counted(len(broken), 'mask')} cannot be read, such as {broken[0]}: their lesions have no size",
              flush=True)
    return rows.assign(lesion_area=[found or "" for found in areas])
