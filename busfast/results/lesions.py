"""How large the lesions are, by their masks, so that scores can be shown for small and large ones."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from busfast.data.paths import read_source_folders
from busfast.errors import UserError
from busfast.pipelines.image import ImagePipeline
from busfast.processes import cores
from busfast.results.probes import read_mask
from busfast.text import counted

READ = ImagePipeline(256)  # squashed to a square, which changes no share of the area


def add_lesion_area(rows: pd.DataFrame, root: str | Path) -> pd.DataFrame:
    """Returns rows with a column lesion_area: the share of the image that its mask covers, as text; "" without a mask,
    or if it is empty or cannot be read (a line says so). `root`: the folder of the table."""
    folders = read_source_folders(root)

    def area(mask: str) -> str | None:
        try:
            region = read_mask(root, mask, folders, READ)
        except UserError:
            return None
        return "" if region is None or not region.any() else f"{region.mean():.4g}"

    if "mask" not in rows or not (rows["mask"] != "").any():
        return rows
    with ThreadPoolExecutor(cores()) as pool:
        areas = list(pool.map(area, rows["mask"]))
    if broken := [mask for mask, found in zip(rows["mask"], areas, strict=True) if found is None]:
        print(f"  {counted(len(broken), 'mask')} cannot be read, such as {broken[0]}: their lesions have no size",
              flush=True)
    return rows.assign(lesion_area=[found or "" for found in areas])
