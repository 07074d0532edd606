"""Images that come from a browser: where they lie for a moment, how they are taken from there, what is refused."""

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

from busfast.data.images import read_image, why_unreadable
from busfast.errors import UserError

FORMATS = ("JPEG", "PNG", "BMP", "TIFF")  # Pillow opens more, some of them by starting other programs
KEEP = 120  # seconds that an upload may wait to be read
ROOM = 4  # uploads of the largest size that may lie there at once
MEMORY = "/dev/shm"


@contextmanager
def private_folder(most: int) -> Iterator[Path]:
    """Yields an empty folder that is this user's alone, in memory where there is such a place; it is removed after.

    Args:
        most: bytes of an upload.
    """
    there = os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > ROOM * most
    with tempfile.TemporaryDirectory(prefix="busfast-demo-", dir=MEMORY if there else None) as folder:
        yield Path(folder).resolve()


def take(upload: dict[str, Any], folder: Path) -> bytes:
    """Returns the bytes of an upload and deletes it.

    Args:
        upload: what the browser says of it; only `path` is looked at, and believed if it leads into the folder.
        folder: the private one.

    Raises:
        UserError: there is no such upload.
    """
    path = Path(str(upload.get("path"))).resolve()
    if not lies_in(path, folder) or not path.is_file():
        raise UserError("The upload is gone. Choose the image again.")
    try:
        return path.read_bytes()
    finally:
        path.unlink(missing_ok=True)
        if path.parent != folder:
            shutil.rmtree(path.parent, ignore_errors=True)


def lies_in(path: Any, folder: Path) -> bool:
    """Returns whether what a browser names as a path leads into the private folder."""
    try:
        return Path(path).resolve().is_relative_to(folder)
    except (TypeError, ValueError, OSError, RuntimeError):  # no text, a zero byte, a circle of links
        return False


def asks_for_uploads_alone(body: bytes, folder: Path) -> bool:
    """Returns whether each file that a request, in JSON, names is an upload.

    Gradio copies files that a request names into its folder, and fetches addresses, before it calls the demo.
    """
    try:
        waiting = [json.loads(body)]
    except (ValueError, RecursionError):
        return False
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            if "path" in one and not lies_in(one["path"], folder):
                return False
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
    return True


def sweep(folder: Path, older: float = KEEP) -> None:
    """Deletes what nobody came for: whatever lies in the private folder for more than `older` seconds."""
    for path in folder.iterdir():
        try:
            if time.time() - path.stat().st_mtime >= older:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        except FileNotFoundError:  # it was taken just now
            pass


def weight(folder: Path) -> int:
    """Returns how many bytes lie in the private folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def read_upload(data: bytes, most: int) -> Image.Image:
    """Reads an image as `read_image` does, in gray if it is gray; what is too large is refused before it is decoded.

    Args:
        data: the file.
        most: bytes that it may have.

    Raises:
        UserError: it is empty, too large in bytes or pixels, or cannot be read. The message follows the file's name.
    """
    if not data:
        raise UserError("is empty. Choose another file.")
    if len(data) > most:
        raise UserError(f"has {len(data) / 1e6:.1f} MB, and {most / 1e6:g} MB are allowed here. Make it smaller, or "
                        "start the demo with a larger --max_mb.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of what is refused here anyway; it says what is in the image
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_pixels(*image.size)
                return read_image(image, keep_gray=True)
    except UserError:
        raise
    except Image.DecompressionBombError as error:  # twice as large as that
        raise UserError(f"has far too many pixels: {_most_pixels()} Make it smaller.") from error
    except UnidentifiedImageError as error:
        raise UserError(f"is no image that can be read: it is none of {', '.join(FORMATS)}. Choose another "
                        "file.") from error
    except Exception as error:  # a broken file raises nearly anything
        raise UserError(f"cannot be read ({why_unreadable(error)}). Choose another file.") from error


def _check_pixels(width: int, height: int) -> None:
    most = Image.MAX_IMAGE_PIXELS
    if most and width * height > most:
        raise UserError(f"has {width} x {height} pixels: {_most_pixels()} Make it smaller.")


def _most_pixels() -> str:
    return f"at most {Image.MAX_IMAGE_PIXELS / 1e6:.0f} million are read, and nothing of it was decoded."
