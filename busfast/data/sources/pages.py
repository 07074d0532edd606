"""Image files of several pages or frames: which of them become images."""

from dataclasses import replace
from pathlib import Path, PurePosixPath

import pandas as pd

from busfast.data.images import open_image, read_image, why_unreadable
from busfast.data.sources.common import SourceTable
from busfast.data.sources.dicom_frames import pick_frames
from busfast.errors import UserError
from busfast.text import counted

SUFFIXES = (".tif", ".tiff", ".gif", ".webp", ".apng")


def take_pages(table: SourceTable, pages: str) -> SourceTable:
    """Gives each page that is picked of a file a row of its own; masks, which do not say of which page they are, stay
    behind. Without `pages`, the first page of each file is its image, which is noted."""
    taken: dict[str, tuple[str, int]] = {}
    rows, several = [], []
    for row in table.rows.to_dict("records"):
        image = row["image"]
        count = 1 if image in table.dicom else count_pages(table.root / image)
        several += [image] if count > 1 else []
        if count == 1 or not pages:
            rows.append(row)
            continue
        for page in pick_frames(pages, count, "pages"):
            rows.append(row | {"image": f"{image}/{page + 1}"} | dict.fromkeys(table.masks, ""))
            taken[f"{image}/{page + 1}"] = image, page
    if not several:
        return table
    files = f"{counted(len(several), 'file')} of several pages, such as '{several[0]}': "
    note = files + (f"{counted(len(taken), 'page')} become images (column group: the file)" if pages else
                    "the first page is used (others: --pages=middle, all or every:N)")
    return replace(table, rows=pd.DataFrame(rows, dtype=object), pages=taken, notes=(*table.notes, note))


def count_pages(path: Path) -> int:
    """Returns how many pages or frames an image file has; 1 of a damaged one."""
    if PurePosixPath(path).suffix.lower() not in SUFFIXES:
        return 1
    try:
        with open_image(path) as image:
            return getattr(image, "n_frames", 1)
    except Exception:  # a damaged file raises nearly anything; it is reported as unreadable
        return 1


def write_page(source: Path, target: Path, page: int) -> None:
    """Writes a page as PNG of 8 bits, without any metadata."""
    try:
        with open_image(source) as image:
            image.seek(page)
            pixels = read_image(image, keep_gray=True)
    except Exception as error:  # a damaged file raises nearly anything
        raise UserError(f"{source}, page {page + 1}: {why_unreadable(error)}. Replace or remove the file. Nothing was "
                        "written.") from error
    pixels.save(target, format="PNG")
