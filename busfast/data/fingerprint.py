"""What each image looks like in a few numbers: enough to find copies and odd files without reading it again."""

import hashlib
import json
import os
import sys
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import PIL
from PIL import Image

from busfast.data.images import open_image, read_image, why_unreadable
from busfast.errors import UserError
from busfast.files import atomic
from busfast.progress import progress

SIDE = 64  # of the thumbnail, in pixels
VERSION = f"busfast fingerprints 3, Pillow {PIL.__version__}"  # another decoder may give other pixels
UNREAD = {"width": 0, "height": 0, "mode": "", "low": 0, "high": 0, "pixels": "", "thumbnail": b""}
KINDS = {"1": "gray 1", "L": "gray 8", "LA": "gray 8", "La": "gray 8", "I": "gray 32", "F": "gray 32"}


def fingerprint_images(paths: Sequence[str | Path], threads: int | None = None) -> pd.DataFrame:
    """Reads every pixel of every image once, in parallel, and remembers what it saw for the next call.

    Args:
        paths: image files.
        threads: how many to decode with; all cores by default.

    Returns:
        One row a path, in order:
        reason: why it cannot be read, "" if every pixel decodes.
        width, height: int, pixels, upright; 0 where it cannot be read.
        mode: kind and bits a channel in the file: "gray 1", "gray 8", "gray 16", "gray 32" or "color 8".
        low, high: int, 0 to 255, the darkest and the brightest gray value; equal for a constant image.
        pixels: text, a hash of size and upright 8-bit RGB pixels.
        thumbnail: bytes, SIDE x SIDE gray values, row by row.

    The results, thumbnails included, are kept in `cache_folder()`, which only its user can read, in one file for each
    folder that holds the images. An image is read again when its size in bytes or its time of change differs.
    Where the cache cannot be written, nothing is kept.
    """
    names = [os.path.abspath(path) for path in paths]
    stamps = {name: stamp(name) for name in names}
    place = cache_file(list(stamps))
    known = load(place)
    seen = {name: known[name] for name in stamps if name in known and known[name]["stamp"] == stamps[name]}
    fresh = [name for name in stamps if name not in seen]
    try:
        with warnings.catch_warnings(), ThreadPoolExecutor(threads or os.cpu_count()) as pool:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # refused in `open_image` instead
            rows = progress(pool.map(fingerprint, fresh), "fingerprinting images", len(fresh))
            try:
                for name, row in zip(fresh, rows, strict=True):
                    seen[name] = row | {"stamp": stamps[name]}
            finally:
                pool.shutdown(cancel_futures=True)  # an interrupted run does not first read all the rest
    finally:  # and what it has read stays read
        if not known.keys() >= seen.keys() or any(known[name] is not row for name, row in seen.items()):
            others = {name: row for name, row in known.items() if name not in stamps and os.path.exists(name)}
            store(place, others | {name: row for name, row in seen.items() if row["stamp"] is not None})
    columns = ["reason", *UNREAD]
    return pd.DataFrame({column: [seen[name][column] for name in names] for column in columns}, columns=columns)


def fingerprint(path: str) -> dict:
    """Reads one image; a row of `fingerprint_images`."""
    try:
        with open_image(path) as opened:
            mode = "gray 16" if opened.mode.startswith("I;16") else KINDS.get(opened.mode, "color 8")
            if opened.mode == "I" and opened.format == "PNG":
                mode = "gray 16"  # older Pillow widens it
            image = read_image(opened)
        gray = image.convert("L")
        low, high = gray.getextrema()
        digest = hashlib.blake2b(b"%d x %d " % image.size, digest_size=16)
        digest.update(image.tobytes())
        small = gray.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    except Exception as error:
        return {"reason": why_unreadable(error), **UNREAD}
    return {"reason": "", "width": image.width, "height": image.height, "mode": mode, "low": low, "high": high,
            "pixels": digest.hexdigest(), "thumbnail": small.tobytes()}


def stamp(path: str) -> tuple[int, int] | None:
    """Returns what changes when a file does, size in bytes and time in ns, or None if there is no such file."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_size, found.st_mtime_ns


def cache_folder() -> Path:
    """Returns where fingerprints are kept: $BUSFAST_CACHE, or `busfast` in this user's cache folder."""
    if os.environ.get("BUSFAST_CACHE"):
        return Path(os.environ["BUSFAST_CACHE"])
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "busfast"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "busfast"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "busfast"


def cache_file(names: list[str]) -> Path | None:
    """Returns the cache file of the deepest folder that holds all files: data sets do not fill each other's file.

    None: nothing is to be kept (BUSFAST_CACHE=off), or there is no place for it.
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


def load(place: Path | None) -> dict[str, dict]:
    """Reads a cache file; empty if it is absent, of another version, cut short or not a cache file at all."""
    try:
        with np.load(place, allow_pickle=False) as file:
            text = json.loads(file["text"].tobytes())
            numbers, thumbnails = file["numbers"], file["thumbnails"]
        if text["version"] != VERSION or numbers.shape[1:] != (6,) or thumbnails.shape[1:] != (SIDE * SIDE,):
            return {}
        rows = {}
        for name, reason, mode, pixels, (size, changed, width, height, low, high), thumbnail in zip(
                text["name"], text["reason"], text["mode"], text["pixels"], numbers.tolist(), thumbnails, strict=True):
            rows[name] = {"stamp": (size, changed), "reason": reason, "width": width, "height": height, "mode": mode,
                          "low": low, "high": high, "pixels": pixels,
                          "thumbnail": b"" if reason else thumbnail.tobytes()}
        return rows
    except Exception:  # a damaged zip raises nearly anything; the worst that follows is reading the images again
        return {}


def store(place: Path | None, rows: dict[str, dict]) -> None:
    """Writes a cache file; does nothing where it cannot."""
    if place is None:
        return
    values = list(rows.values())
    text = {"version": VERSION, "name": list(rows)}
    text |= {column: [row[column] for row in values] for column in ("reason", "mode", "pixels")}
    numbers = [(*row["stamp"], row["width"], row["height"], row["low"], row["high"]) for row in values]
    thumbnails = b"".join(row["thumbnail"] or bytes(SIDE * SIDE) for row in values)
    try:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with atomic(place, "wb") as file:
            np.savez(file, text=np.frombuffer(json.dumps(text).encode("ascii"), np.uint8),
                     numbers=np.array(numbers, np.int64).reshape(-1, 6),
                     thumbnails=np.frombuffer(thumbnails, np.uint8).reshape(-1, SIDE * SIDE))
    except (OSError, UserError):
        pass
