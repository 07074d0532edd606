"""A small description of each image: enough to find duplicates and odd files without reading the image again."""

import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import PIL
from PIL import Image

from busfast.data.images import (
    TOO_MANY,
    is_deep_color,
    lacks_end,
    open_image,
    pixel_limit,
    read_image,
    why_unreadable,
)
from busfast.errors import UserError
from busfast.files import atomic, cache_folder
from busfast.processes import cores
from busfast.progress import progress

SIDE = 64  # of the thumbnail, in pixels
VERSION = f"busfast fingerprints 4, Pillow {PIL.__version__}"  # another decoder may give other pixels
UNREADABLE = {"width": 0, "height": 0, "mode": "", "note": "", "low": 0, "high": 0, "pixels": "", "thumbnail": b""}
MODES = {"1": "gray 1", "L": "gray 8", "LA": "gray 8", "La": "gray 8", "I": "gray 32", "F": "gray 32"}
PAGES = ("TIFF", "GIF", "WEBP", "PNG")  # formats that may hold several pages or frames
CUT = "has no end marker"
TEXTS = ("reason", "mode", "note", "pixels")


def fingerprint_images(paths: Sequence[str | Path], threads: int | None = None) -> pd.DataFrame:
    """Decodes every image once, in parallel; returns a row per path, in order, and caches the rows for the next call.

    The cache, thumbnails included, is one file per data folder in `cache_folder()`, which only its user can read. An
    image is read again when its size in bytes or its modification time differs.

    Columns: reason (why it cannot be read, else ""), width and height (pixels, after EXIF rotation), mode (kind and
    bits per channel of the file, such as "gray 16" or "color 8"), note (what is odd about a file that is read all the
    same, else ""), low and high (gray values, 0 to 255; equal for a constant image), pixels (a hash of size and 8-bit
    RGB pixels), thumbnail (bytes, SIDE x SIDE gray values).
    """
    names = [os.path.abspath(path) for path in paths]
    stamps = {name: file_stamp(name) for name in names}
    file = cache_file(list(stamps))
    cached = read_cache(file)
    prints = {name: cached[name] for name in stamps if name in cached and cached[name]["stamp"] == stamps[name]
              and not _depends(cached[name])}
    unread = [name for name in stamps if name not in prints]
    try:
        with warnings.catch_warnings(), ThreadPoolExecutor(threads or cores()) as pool:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `open_image` refuses such images
            rows = progress(pool.map(fingerprint, unread), "fingerprinting images", len(unread))
            try:
                for name, row in zip(unread, rows, strict=True):
                    prints[name] = row | {"stamp": stamps[name]}
            finally:
                pool.shutdown(cancel_futures=True)  # an interrupted run does not read the remaining images first
    finally:  # an interrupted run keeps what it has read
        if not cached.keys() >= prints.keys() or any(cached[name] is not row for name, row in prints.items()):
            others = {name: row for name, row in cached.items() if name not in stamps and os.path.exists(name)}
            write_cache(file, others | {name: row for name, row in prints.items() if row["stamp"] is not None})
    columns = ["reason", *UNREADABLE]
    return pd.DataFrame({column: [prints[name][column] for name in names] for column in columns}, columns=columns)


def _depends(row: dict) -> bool:
    """Returns whether what is known of an image may be another now: by the limit of pixels, or a decoder of DICOM."""
    return row["reason"].startswith((TOO_MANY, "DicomError", "UserError")) or \
        row["width"] * row["height"] > (pixel_limit() or np.inf)


def fingerprint(path: str) -> dict:
    """Returns a row of `fingerprint_images`."""
    try:
        with open_image(path) as opened:
            mode = "gray 16" if opened.mode.startswith("I;16") else MODES.get(opened.mode, "color 8")
            if opened.mode == "I" and opened.format == "PNG":
                mode = "gray 16"  # older Pillow widens it
            if is_deep_color(opened):
                mode = mode.replace("8", "16")
            note = _note(opened, path)
        image = read_image(path)
        gray = image.convert("L")
        low, high = gray.getextrema()
        digest = hashlib.blake2b(b"%d x %d " % image.size, digest_size=16)
        digest.update(image.tobytes())
        thumbnail = gray.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    except Exception as error:
        return {"reason": why_unreadable(error), **UNREADABLE}
    return {"reason": "", "width": image.width, "height": image.height, "mode": mode, "note": note, "low": low,
            "high": high, "pixels": digest.hexdigest(), "thumbnail": thumbnail.tobytes()}


def _note(opened: Image.Image, path: str) -> str:
    """Returns what is odd about a file that is read all the same; "" if nothing is."""
    if opened.format == "JPEG":
        opened.fp.seek(-2, os.SEEK_END)
        return CUT if opened.fp.read() != b"\xff\xd9" and lacks_end(Path(path).read_bytes()) else ""
    pages = getattr(opened, "n_frames", 1) if opened.format in PAGES else 1
    return f"has {pages} pages" if pages > 1 else ""


def file_stamp(path: str) -> tuple[int, int] | None:
    """Returns size in bytes and modification time in ns; None if there is no such file."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns


def cache_file(names: list[str]) -> Path | None:
    """Returns the cache file of the deepest folder that holds all files, so that each data set has its own; None:
    caching is off (BUSFAST_CACHE=off), or there is no cache folder.
    """
    if os.environ.get("BUSFAST_CACHE") == "off":
        return None
    try:
        root = os.path.commonpath([os.path.dirname(name) for name in names]) if names else ""
    except ValueError:  # several drives
        root = ""
    try:
        return cache_folder() / f"fingerprints-{hashlib.blake2b(os.fsencode(root), digest_size=8).hexdigest()}.npz"
    except RuntimeError:  # no home folder
        return None


def read_cache(path: Path | None) -> dict[str, dict]:
    """Returns the rows of a cache file by image; empty if it is absent, damaged or of another version."""
    try:
        with np.load(path, allow_pickle=False) as file:
            text = json.loads(file["text"].tobytes())
            numbers, thumbnails = file["numbers"], file["thumbnails"]
        if text["version"] != VERSION or numbers.shape[1:] != (6,) or thumbnails.shape[1:] != (SIDE * SIDE,):
            return {}
        rows = {}
        for name, reason, mode, note, pixels, (size, modified, width, height, low, high), thumbnail in zip(
                *(text[column] for column in ("name", *TEXTS)), numbers.tolist(), thumbnails, strict=True):
            rows[name] = {"stamp": (size, modified), "reason": reason, "width": width, "height": height, "mode": mode,
                          "note": note, "low": low, "high": high, "pixels": pixels,
                          "thumbnail": b"" if reason else thumbnail.tobytes()}
        return rows
    except Exception:  # a damaged zip raises nearly anything; the cost is reading the images again
        return {}


def write_cache(path: Path | None, rows: dict[str, dict]) -> None:
    """Writes a cache file, if possible."""
    if path is None:
        return
    values = list(rows.values())
    text = {"version": VERSION, "name": list(rows)}
    text |= {column: [row[column] for row in values] for column in TEXTS}
    numbers = [(*row["stamp"], row["width"], row["height"], row["low"], row["high"]) for row in values]
    thumbnails = b"".join(row["thumbnail"] or bytes(SIDE * SIDE) for row in values)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with atomic(path, "wb") as file:
            np.savez(file, text=np.frombuffer(json.dumps(text).encode("ascii"), np.uint8),
                     numbers=np.array(numbers, np.int64).reshape(-1, 6),
                     thumbnails=np.frombuffer(thumbnails, np.uint8).reshape(-1, SIDE * SIDE))
    except (OSError, UserError):
        pass
