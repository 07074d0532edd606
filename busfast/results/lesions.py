"""How large the lesions are, by their masks, so that scores can be shown for small and large ones."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from busfast.data.images import read_image
from busfast.data.paths import locate, read_source_folders
from busfast.processes import cores
from busfast.text import counted


def decode_mask(root: str | Path, name: str, folders: dict[str, Path]) -> np.ndarray | None:
    """Returns where a mask of a table is not black: bool, (H, W); None if the table names none, or it is missing. A
    broken file raises nearly anything."""
    path = locate(root, name, folders) if name else None
    if path is None or not path.is_file():
        return None
    return np.asarray(read_image(path, keep_gray=True).convert("L")) > 0


def add_lesion_area(rows: pd.DataFrame, root: str | Path) -> pd.DataFrame:
    """Returns rows with a column lesion_area: the share of the image that its mask covers, as text; "" without a mask,
    or if it is empty or cannot be read (a line says so). `root`: the folder of the table."""
    if "mask" not in rows or not (rows["mask"] != "").any():
        return rows
    folders = read_source_folders(root)

    def area(name: str) -> str | None:
        try:
            mask = decode_mask(root, name, folders)
        except Exception:
            return None
        return "" if mask is None or not mask.any() else f"{mask.mean():.4g}"

    with ThreadPoolExecutor(cores()) as pool:
        areas = list(pool.map(area, rows["mask"]))
    if broken := [mask for mask, found in zip(rows["mask"], areas, strict=True) if found is None]:
        print(f"  {counted(len(broken), 'mask')} cannot be read, such as {broken[0]}: their lesions have no size")
    return rows.assign(lesion_area=[found or "" for found in areas])
