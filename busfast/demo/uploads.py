"""Images uploaded by a browser: where they are stored until they are read, and which are refused."""

import io
import json
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from busfast.data.images import open_dicom, read_image, why_unreadable
from busfast.errors import UserError

FORMATS = ("JPEG", "PNG", "BMP", "TIFF")  # Pillow opens more, some by starting other programs
KEEP_SECONDS = 120  # that an upload may wait to be read
MAX_WAITING = 4  # uploads of the largest size that may wait at once
MEMORY = "/dev/shm"


@contextmanager
def private_folder(most: int) -> Iterator[Path]:
    """Yields an empty folder that only this user can read, in memory if possible; it is removed at the end.
    `most`: largest size of an upload, bytes."""
    in_memory = os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > MAX_WAITING * most
    with tempfile.TemporaryDirectory(prefix="busfast-demo-", dir=MEMORY if in_memory else None) as folder:
        yield Path(folder).resolve()


def take_upload(upload: dict[str, Any], folder: Path) -> bytes:
    """Returns the bytes of an upload and deletes it; UserError if it is gone.
    Of the browser's description, only `path` is used, and only if it is inside the folder."""
    path = Path(str(upload.get("path"))).resolve()
    if not is_inside(path, folder) or not path.is_file():
        raise UserError("The upload is gone. Choose the image again.")
    try:
        return path.read_bytes()
    finally:
        path.unlink(missing_ok=True)
        if path.parent != folder:
            shutil.rmtree(path.parent, ignore_errors=True)


def is_inside(path: Any, folder: Path) -> bool:
    """Returns whether a path from a browser is inside the private folder."""
    try:
        return Path(path).resolve().is_relative_to(folder)
    except (TypeError, ValueError, OSError, RuntimeError):  # not a text, a null byte, a loop of links
        return False


def names_only_uploads(body: bytes, folder: Path) -> bool:
    """Returns whether every file that a JSON request names is an upload.
    Gradio copies named files into its folder and downloads named addresses before it calls the demo."""
    try:
        values = [json.loads(body)]
    except (ValueError, RecursionError):
        return False
    while values:
        value = values.pop()
        if isinstance(value, dict):
            if "path" in value and not is_inside(value["path"], folder):
                return False
            values += value.values()
        elif isinstance(value, list):
            values += value
    return True


def remove_old(folder: Path, older: float = KEEP_SECONDS) -> None:
    """Deletes abandoned uploads: whatever is older than `older` seconds."""
    for path in folder.iterdir():
        try:
            if time.time() - path.stat().st_mtime >= older:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        except FileNotFoundError:  # it was just read
            pass


def total_size(folder: Path) -> int:
    """Returns the size of all files in a folder, bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def read_upload(data: bytes, most: int) -> Image.Image:
    """Reads an image as `read_image` does, keeping gray; an image that is too large is refused before it is decoded.
    UserError if it is empty, has more than `most` bytes, or cannot be read; the message continues after its name."""
    if not data:
        raise UserError("is empty. Choose another file.")
    if len(data) > most:
        raise UserError(f"has {len(data) / 1e6:.1f} MB, but at most {most / 1e6:g} MB are allowed. Make it smaller, or "
                        "start the demo with a larger --max_mb.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about images that are refused here
            with _open(data) as image:
                _check_pixels(*image.size)
            return read_image(data, keep_gray=True)
    except UserError:
        raise
    except Image.DecompressionBombError as error:  # at twice the limit
        raise UserError(f"has far too many pixels: {_pixel_limit()}") from error
    except UnidentifiedImageError as error:
        raise UserError(f"is not a readable image: it is none of {', '.join(FORMATS)}, DICOM. Choose another file."
                        ) from error
    except Exception as error:  # a damaged file can raise nearly anything
        raise UserError(f"cannot be read ({why_unreadable(error)}). Choose another file.") from error


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        return open_dicom(io.BytesIO(data))


def _check_pixels(width: int, height: int) -> None:
    most = Image.MAX_IMAGE_PIXELS
    if most and width * height > most:
        raise UserError(f"has {width} x {height} pixels: {_pixel_limit()}")


def _pixel_limit() -> str:
    return f"at most {Image.MAX_IMAGE_PIXELS / 1e6:.0f} million are allowed; it was not decoded. Make it smaller."
