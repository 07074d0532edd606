"""Image files of several pages or frames: which of them become images."""

from dataclasses import replace
from pathlib import Path

from busfast.data.images import open_image, read_image, why_unreadable
from busfast.data.sources.common import SourceTable
from busfast.data.sources.dicom_frames import split_files
from busfast.errors import UserError
from busfast.text import counted

SUFFIXES = (".tif", ".tiff", ".gif", ".webp", ".apng")


def take_pages(table: SourceTable, pages: str) -> SourceTable:
    """Makes rows of the pages that are picked of files; without `pages`, the first of each is its image, which is
    noted."""
    counts = {image: count for image in table.rows["image"]
              if image not in table.dicom and (count := count_pages(table.root / image)) > 1}
    if not counts:
        return table
    files = f"{counted(len(counts), 'file')} of several pages, such as '{next(iter(counts))}': "
    if not pages:
        return replace(table, notes=(*table.notes, f"{files}the first page is used (others: --pages=middle, all or "
                                                   "every:N)"))
    rows, taken = split_files(table, pages, counts, "pages")
    return replace(table, rows=rows, pages=taken, notes=(
        *table.notes, f"{files}{counted(len(taken), 'page')} become images (column group: the file)"))


def count_pages(path: Path) -> int:
    """Returns how many pages or frames an image file has; 1 of a damaged one."""
    if path.suffix.lower() not in SUFFIXES:
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
