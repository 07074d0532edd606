"""One image, one reading of it: any file -> upright 8-bit pixels -> the size the model sees.

This file is the reference that every loader must agree with. It stands on Pillow and NumPy alone and imports
nothing of busfast, so that an exported learner can carry these functions with it.
"""

import io
import os

import numpy as np
from PIL import Image, ImageOps

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")


def read_image(source) -> Image.Image:
    """Reads an image as it shall be seen: upright (EXIF), 8 bits a channel, RGB.

    Args:
        source: a path, encoded bytes, a Pillow image, or an array (H, W) or (H, W, 3).
            Gray of more than 8 bits (12- or 16-bit PNG and TIFF, floats) is stretched from the image's own
            darkest to brightest value, so that 12-bit data in a 16-bit file is not read as black.

    Returns:
        A Pillow image in mode RGB; gray is repeated in the three channels, transparency is dropped.

    Raises:
        OSError, SyntaxError, ValueError: the file cannot be decoded (Pillow's own errors), is color of more than
            8 bits a channel (Pillow would cut it down to near black), or holds a number that is not finite.
    """
    if isinstance(source, np.ndarray):
        source = Image.fromarray(source)
    if not isinstance(source, Image.Image):
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else os.fspath(source)) as opened:
            return read_image(opened)
    check_depth(source)
    image = ImageOps.exif_transpose(source)
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, dtype=np.float64)
        if not np.isfinite(values).all():
            raise ValueError("holds numbers that are not finite (NaN or infinite)")
        low, high = values.min(), values.max()
        scaled = (values - low) * (255.0 / (high - low) if high > low else 0.0)
        image = Image.fromarray(np.round(scaled).astype(np.uint8))
    image.info.pop("transparency", None)  # Pillow warns of it otherwise
    return image.convert("RGB")


def check_depth(image: Image.Image) -> None:
    """Refuses color of more than 8 bits a channel, before it is decoded.

    Raises:
        ValueError: it is.
    """
    raw_modes = [tile.args if isinstance(tile.args, str) else tile.args[0] for tile in getattr(image, "tile", ())
                 if tile.args]
    if image.mode not in ("I", "F") and not image.mode.startswith("I;") and any(";16" in str(raw) for raw in raw_modes):
        raise ValueError("color of 16 bits a channel cannot be read: save it as 8-bit color or 16-bit gray")


def fit_image(image: Image.Image, size: int, resize: str = "squash", channels: str = "rgb") -> Image.Image:
    """Brings an RGB image to size x size pixels, bilinear with antialiasing.

    Args:
        image: an RGB image of any size.
        size: side of the result in pixels.
        resize: "squash" (the aspect is lost), "crop" (the square in the middle) or "pad" (longer side to `size`,
            black borders).
        channels: "rgb", or "gray" to drop colour (still three channels).

    Returns:
        A Pillow image in mode RGB, size x size.
    """
    if channels == "gray":
        image = image.convert("L").convert("RGB")
    width, height = image.size
    if resize == "squash":
        return image.resize((size, size), Image.Resampling.BILINEAR)
    if resize == "crop":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        return image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    longer = max(width, height)
    width, height = (max(1, int(length * size / longer + 0.5)) for length in (width, height))
    canvas = Image.new("RGB", (size, size))
    canvas.paste(image.resize((width, height), Image.Resampling.BILINEAR),
                 ((size - width) // 2, (size - height) // 2))
    return canvas


def unreadable(path: str | os.PathLike) -> str:
    """Returns why an image file cannot be read, or "" if every pixel of it decodes."""
    try:
        with Image.open(path) as image:
            check_depth(image)
            if image.format == "JPEG":
                # Still reads the whole file, so a truncation shows, at a fraction of the cost.
                image.draft(image.mode, (max(1, image.width // 8), max(1, image.height // 8)))
            image.load()
    except FileNotFoundError:
        return "no such file"
    except Exception as error:  # a broken file raises nearly anything, from struct.error to SyntaxError
        return f"{type(error).__name__}: {error}"
    return ""
