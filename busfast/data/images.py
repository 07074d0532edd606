"""Reads an image: any file -> upright 8-bit pixels -> the model's input size. Every loader must agree with this file.

`resize_image` stands a second time in `pipelines/dali_loader.py`, as DALI operators: change both, and raise `READING`.
This file imports only Pillow and NumPy, nothing of busfast, so that exported models can carry it with them.
"""

import io
import os
import stat
from typing import Any

import numpy as np
from PIL import Image, ImageOps

READING = 1  # increment when these functions give other pixels: it invalidates cached ones
MARGIN = 2  # a JPEG is decoded at reduced size down to MARGIN * size; with 1, pixels would be off by up to 2/255
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
# By content, not by name. Pillow reads some forty more formats; for EPS it runs a program (Ghostscript) on the file.
FORMATS = ("JPEG", "PNG", "BMP", "DIB", "TIFF", "GIF", "WEBP", "JPEG2000", "PPM")


class TooManyPixels(ValueError):
    """An image's header claims so many pixels that decoding them could exhaust the memory."""


def read_image(source: Any, keep_gray: bool = False, enough: int = 0) -> Image.Image:
    """Reads an image upright (by its EXIF orientation), as RGB of 8 bits per channel.

    Args:
        source: a path, encoded bytes, a Pillow image, or an array (H, W) or (H, W, 3). Gray of more than 8 bits (12- or
            16-bit PNG and TIFF, floats) is stretched from the image's darkest to its brightest value, so that 12-bit
            data in a 16-bit file is not read as black. Of a file of several images, the first.
        keep_gray: leave gray in one channel: the same values in a third of the time.
        enough: pixels; a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size if no side gets shorter than this. 0: at
            full size.

    Returns:
        A Pillow image in mode RGB, or L if it is gray and `keep_gray`. Transparency is dropped.

    Raises:
        OSError, SyntaxError, ValueError: the file cannot be decoded (Pillow's errors), has too many pixels, is color of
            more than 8 bits per channel (Pillow would truncate it to near black), or holds NaN or infinite numbers.
    """
    if isinstance(source, np.ndarray):
        source = Image.fromarray(source)
    if not isinstance(source, Image.Image):
        with open_image(source) as opened:
            if enough:
                opened.draft(None, (enough, enough))  # affects only JPEG
            return read_image(opened, keep_gray)
    check_depth(source)
    image = ImageOps.exif_transpose(source)
    if image.mode.startswith(("I", "F")):
        values = np.array(image, dtype=np.float64)
        if not np.isfinite(values).all():
            raise ValueError("holds numbers that are not finite (NaN or infinite)")
        low, high = values.min(), values.max()
        values -= low  # in place, to save memory: 8 bytes per pixel
        values *= 255.0 / (high - low) if high > low else 0.0
        image = Image.fromarray(np.round(values, out=values).astype(np.uint8))
    image.info.pop("transparency", None)  # otherwise Pillow warns
    return image.convert("L" if keep_gray and image.mode in ("1", "L", "LA", "La") else "RGB")


def open_image(source: Any) -> Image.Image:
    """Opens an image file (a path, or encoded bytes): reads its header, not its pixels. Raises OSError if its format is
    none of `FORMATS`, TooManyPixels above `PIL.Image.MAX_IMAGE_PIXELS`, ValueError if it is no regular file.
    """
    if isinstance(source, bytes):
        file = io.BytesIO(source)
    else:
        file = os.fspath(source)
        kind = os.stat(file).st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):  # a pipe or a device may never end
            raise ValueError("is not a regular file")
    limit = Image.MAX_IMAGE_PIXELS
    try:
        image = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError as error:  # above twice the limit, Pillow hides the size
        size = str(error).partition("(")[2].partition(")")[0] or "too many pixels"
        raise TooManyPixels(f"too many pixels to decode: {size}; Pillow's limit is {limit}") from None
    if limit and image.width * image.height > limit:
        image.close()
        raise TooManyPixels(f"too many pixels to decode: {image.width} x {image.height}; Pillow's limit is {limit}")
    return image


def check_depth(image: Image.Image) -> None:
    """Raises ValueError for color of more than 8 bits per channel, before it is decoded."""
    raw_modes = [tile.args if isinstance(tile.args, str) else tile.args[0] for tile in getattr(image, "tile", ())
                 if tile.args]
    if image.mode not in ("I", "F") and not image.mode.startswith("I;") and any(";16" in str(raw) for raw in raw_modes):
        raise ValueError("color of 16 bits per channel cannot be read: save it as 8-bit color or 16-bit gray")


def as_sides(size: int | tuple[int, int]) -> tuple[int, int]:
    """Returns height and width of a size: one number for both, or the two."""
    high, wide = (size, size) if isinstance(size, int) else size
    return high, wide


def resize_image(image: Image.Image, size: int | tuple[int, int], resize: str = "squash",
                 channels: str = "rgb") -> Image.Image:
    """Resizes an image to a size, bilinear with antialiasing.

    Args:
        image: in mode RGB or L.
        size: of the result in pixels: its side, or height and width.
        resize: "squash" (ignores the aspect ratio), "crop" (the largest centered part of the result's aspect ratio) or
            "pad" (the whole image within the result, black borders).
        channels: "rgb", or "gray" to drop color (the mode stays).

    Returns:
        A Pillow image in the mode of `image`.
    """
    if channels == "gray":
        image = image.convert("L").convert(image.mode)
    (width, height), (high, wide) = image.size, as_sides(size)
    flat = width * high >= height * wide  # compared with the result; products of whole numbers are exact
    if resize == "squash":
        return image.resize((wide, high), Image.Resampling.BILINEAR)
    if resize == "crop":
        across, down = (height * wide / high, height) if flat else (width, width * high / wide)
        left, top = (width - across) / 2, (height - down) / 2
        return image.resize((wide, high), Image.Resampling.BILINEAR, box=(left, top, left + across, top + down))
    side, longer = (wide, width) if flat else (high, height)
    width, height = (max(1, int(length * side / longer + 0.5)) for length in (width, height))
    canvas = Image.new(image.mode, (wide, high))
    canvas.paste(image.resize((width, height), Image.Resampling.BILINEAR), ((wide - width) // 2, (high - height) // 2))
    return canvas


def load_pixels(source: Any, size: int | tuple[int, int], resize: str = "squash", channels: str = "rgb",
                exact: bool = True) -> np.ndarray:
    """Returns `resize_image(read_image(source))` as uint8, (height, width, 3), or (height, width, 1) if all is gray.

    Unless `exact`, a large JPEG is decoded at 1/2, 1/4 or 1/8 of its size, but no smaller than `MARGIN * size`: faster,
    and off by about .2/255. Raises as `read_image`.
    """
    image = read_image(source, keep_gray=True, enough=0 if exact else MARGIN * max(as_sides(size)))
    if channels == "gray":
        image = image.convert("L")
    return drop_equal_channels(np.asarray(resize_image(image, size, resize)))


def drop_equal_channels(pixels: np.ndarray) -> np.ndarray:
    """Returns uint8 (H, W) or (H, W, 3) as (H, W, 3), or as (H, W, 1) if all of it is gray."""
    if pixels.ndim == 2:
        return pixels[..., None]
    gray = (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all()
    return pixels[..., :1] if gray else pixels


def why_unreadable(error: Exception) -> str:
    """Returns in one line why an image could not be read; a damaged file raises nearly anything, even struct.error."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return str(error) if isinstance(error, TooManyPixels) else f"{type(error).__name__}: {error}"
