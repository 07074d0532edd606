"""One image, one reading of it: any file -> upright 8-bit pixels -> the size the model sees.

This file is the reference that every loader must agree with. It stands on Pillow and NumPy alone and imports
nothing of busfast, so that an exported learner can carry these functions with it.
"""

import io
import os
import stat
from typing import Any

import numpy as np
from PIL import Image, ImageOps

READING = 1  # to be raised when the pixels that these functions give change: kept ones are then made anew
MARGIN = 2  # what a JPEG decoded at a part of its size keeps, in wanted sizes; with 1, pixels are off by up to 2/255
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
# By content, whatever the name says. Pillow knows some forty more, among them EPS, for which it runs Ghostscript: a
# program, on a file from anywhere.
FORMATS = ("JPEG", "PNG", "BMP", "DIB", "TIFF", "GIF", "WEBP", "JPEG2000", "PPM")


class TooManyPixels(ValueError):
    """An image's header names more pixels than anybody needs: decoding it would take the memory of the machine."""


def read_image(source: Any, keep_gray: bool = False, enough: int = 0) -> Image.Image:
    """Reads an image as it shall be seen: upright (EXIF), 8 bits a channel, RGB.

    Args:
        source: a path, encoded bytes, a Pillow image, or an array (H, W) or (H, W, 3).
            Gray of more than 8 bits (12- or 16-bit PNG and TIFF, floats) is stretched from the image's own
            darkest to brightest value, so that 12-bit data in a 16-bit file is not read as black. Of a file of
            several images, the first.
        keep_gray: leave gray in one channel: a third of the work for whatever follows, and the same values.
        enough: pixels; a JPEG may be decoded at a half, a quarter or an eighth of its size if both sides stay as long
            as this. 0: at its full size.

    Returns:
        A Pillow image in mode RGB (L if it is gray and `keep_gray`); gray is repeated in the three channels,
        transparency is dropped.

    Raises:
        OSError, SyntaxError, ValueError: the file cannot be decoded (Pillow's own errors), has too many pixels, is
            color of more than 8 bits a channel (Pillow would cut it down to near black), or holds a number that is
            not finite.
    """
    if isinstance(source, np.ndarray):
        source = Image.fromarray(source)
    if not isinstance(source, Image.Image):
        with open_image(source) as opened:
            if enough:
                opened.draft(None, (enough, enough))  # does nothing to anything but a JPEG
            return read_image(opened, keep_gray)
    check_depth(source)
    image = ImageOps.exif_transpose(source)
    if image.mode.startswith(("I", "F")):
        values = np.array(image, dtype=np.float64)
        if not np.isfinite(values).all():
            raise ValueError("holds numbers that are not finite (NaN or infinite)")
        low, high = values.min(), values.max()
        values -= low  # in place: eight bytes a pixel are enough
        values *= 255.0 / (high - low) if high > low else 0.0
        image = Image.fromarray(np.round(values, out=values).astype(np.uint8))
    image.info.pop("transparency", None)  # Pillow warns of it otherwise
    return image.convert("L" if keep_gray and image.mode in ("1", "L", "LA", "La") else "RGB")


def open_image(source: Any) -> Image.Image:
    """Opens an image file: its header is read, its pixels are not.

    Args:
        source: a path, or encoded bytes.

    Raises:
        OSError: there is no such file, or it is none of `FORMATS`.
        TooManyPixels: it has more than `PIL.Image.MAX_IMAGE_PIXELS` (None: no limit).
        ValueError: it is no regular file.
    """
    if isinstance(source, bytes):
        file = io.BytesIO(source)
    else:
        file = os.fspath(source)
        kind = os.stat(file).st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):  # a pipe or a device would give no end of bytes, or none
            raise ValueError("is no regular file")
    most = Image.MAX_IMAGE_PIXELS
    try:
        image = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError as error:  # twice the limit: Pillow does not even tell width and height
        size = str(error).partition("(")[2].partition(")")[0] or "too many pixels"
        raise TooManyPixels(f"too many pixels to decode: {size}; Pillow's limit is {most}") from None
    if most and image.width * image.height > most:
        image.close()
        raise TooManyPixels(f"too many pixels to decode: {image.width} x {image.height}; Pillow's limit is {most}")
    return image


def check_depth(image: Image.Image) -> None:
    """Refuses color of more than 8 bits a channel, before it is decoded.

    Raises:
        ValueError: it is.
    """
    raw_modes = [tile.args if isinstance(tile.args, str) else tile.args[0] for tile in getattr(image, "tile", ())
                 if tile.args]
    if image.mode not in ("I", "F") and not image.mode.startswith("I;") and any(";16" in str(raw) for raw in raw_modes):
        raise ValueError("color of 16 bits a channel cannot be read: save it as 8-bit color or 16-bit gray")


def resize_image(image: Image.Image, size: int, resize: str = "squash", channels: str = "rgb") -> Image.Image:
    """Brings an RGB image to size x size pixels, bilinear with antialiasing.

    Args:
        image: an RGB or L image of any size.
        size: side of the result in pixels.
        resize: "squash" (the aspect is lost), "crop" (the square in the middle) or "pad" (longer side to `size`,
            black borders).
        channels: "rgb", or "gray" to drop color (still as many channels).

    Returns:
        A Pillow image in the mode of `image`, size x size.
    """
    if channels == "gray":
        image = image.convert("L").convert(image.mode)
    width, height = image.size
    if resize == "squash":
        return image.resize((size, size), Image.Resampling.BILINEAR)
    if resize == "crop":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        return image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    longer = max(width, height)
    width, height = (max(1, int(length * size / longer + 0.5)) for length in (width, height))
    canvas = Image.new(image.mode, (size, size))
    canvas.paste(image.resize((width, height), Image.Resampling.BILINEAR),
                 ((size - width) // 2, (size - height) // 2))
    return canvas


def load_pixels(source: Any, size: int, resize: str = "squash", channels: str = "rgb",
                exact: bool = True) -> np.ndarray:
    """Reads and fits an image; the same values as `resize_image(read_image(source))`, gray kept in one channel.

    Args:
        source: as that of `read_image`.
        size, resize, channels: as those of `resize_image`.
        exact: decode a JPEG at its full size. Otherwise one that is much larger than `size` is decoded at a half, a
            quarter or an eighth of it, with at least `MARGIN * size` left: faster, and off by about .2/255.

    Returns:
        uint8, (size, size, 1) for gray (also where a color file holds nothing but gray), else (size, size, 3).

    Raises:
        As `read_image`.
    """
    image = read_image(source, keep_gray=True, enough=0 if exact else MARGIN * size)
    if channels == "gray":
        image = image.convert("L")
    pixels = np.asarray(resize_image(image, size, resize))
    if pixels.ndim == 2:
        return pixels[..., None]
    gray = (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all()
    return pixels[..., :1] if gray else pixels


def why_unreadable(error: Exception) -> str:
    """Says in a line why an image could not be read: a broken file raises nearly anything, from struct.error on."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return str(error) if isinstance(error, TooManyPixels) else f"{type(error).__name__}: {error}"
