"""Reads an image: any file -> upright 8-bit pixels -> the model's input size. Every loader must agree with this file.

`resize_image` stands a second time in `pipelines/dali_loader.py`, as DALI operators: change both, and raise `READING`.
This file imports only Pillow and NumPy, nothing of busfast, so that exported models can carry it with them; for the few
files that Pillow would cut to 8 bits or read wrongly, OpenCV and tifffile.
"""

import io
import logging
import os
import re
import stat
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

READING = 2  # increment when these functions give other pixels: it invalidates cached ones
MARGIN = 2  # a JPEG is decoded at reduced size down to MARGIN * size; with 1, pixels would be off by up to 2/255
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".tif", ".tiff", ".gif", ".webp", ".jp2",
            ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".pbm", ".pgm", ".ppm", ".pnm", ".pfm")
# By content, not by name. Pillow reads some forty more formats; for EPS it runs a program (Ghostscript) on the file.
FORMATS = ("JPEG", "PNG", "BMP", "DIB", "TIFF", "GIF", "WEBP", "JPEG2000", "PPM")
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
         5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
         8: Image.Transpose.ROTATE_90}  # EXIF orientation -> what undoes it
EXIF = ("exif", "Raw profile type exif")  # where Pillow keeps it
NOISE = (b"\0", b"\x5a", b"\xa5", b"\x37", b"\xc9")  # what may follow a JPEG whose pixels are all there
TOO_MANY = "too many pixels to decode"
MAX_PIXELS = "BUSFAST_MAX_PIXELS"  # environment variable that takes --max_pixels to the processes of a command


class TooManyPixels(ValueError):
    """An image's header claims so many pixels that decoding them could exhaust the memory."""


def read_image(source: Any, keep_gray: bool = False, enough: int = 0) -> Image.Image:
    """Reads an image upright (by the orientation in its EXIF data), as RGB of 8 bits per channel.

    Args:
        source: a path, encoded bytes, a Pillow image, or an array (H, W) or (H, W, 3). More than 8 bits (PNG and TIFF
            of 12 or 16 bits, floats) are stretched from the image's darkest to its brightest value, of all channels, so
            that 12-bit data in a 16-bit file is not read as black. Of a file of several images, the first.
        keep_gray: leave gray in one channel: the same values in a third of the time.
        enough: pixels; a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size if no side gets shorter than this. 0: at
            full size.

    Returns:
        A Pillow image in mode RGB, or L if it is gray and `keep_gray`. Transparency is dropped.

    Raises:
        OSError, SyntaxError, ValueError: the file cannot be decoded (Pillow's errors), has too many pixels, or holds
            NaN or infinite numbers.
    """
    if isinstance(source, np.ndarray):
        source = Image.fromarray(source)
    if not isinstance(source, Image.Image):
        with open_image(source) as opened:
            if enough:
                opened.draft(None, (enough, enough))  # affects only JPEG
            try:
                return read_image(opened, keep_gray)
            except OSError:
                if enough:  # libjpeg cannot shrink every JPEG that it decodes, such as a lossless one
                    return read_image(source, keep_gray)
                mended = _add_end(opened)
                if not mended:
                    raise
        return read_image(mended, keep_gray)
    image = _eight_bits(source)
    if "transparency" in image.info:  # Pillow would warn
        image = image.copy()
        del image.info["transparency"]
    if image.mode == "La":  # Pillow converts it to nothing else
        image = image.convert("LA")
    return image.convert("L" if keep_gray and image.mode in ("1", "L", "LA") else "RGB")


def open_image(source: Any) -> Image.Image:
    """Opens an image file (a path, or encoded bytes): reads its header, not its pixels. Raises OSError if its format is
    none of `FORMATS`, TooManyPixels above `pixel_limit`, ValueError if it is no regular file.
    """
    file: Any = io.BytesIO(source) if isinstance(source, bytes) else os.fspath(source)
    if not isinstance(source, bytes):
        kind = os.stat(file).st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):  # a pipe or a device may never end
            raise ValueError("is not a regular file")
    with io.BytesIO(source) if isinstance(source, bytes) else open(file, "rb") as opened:
        start = opened.read(132)
    if start[128:] == b"DICM":  # what stands before it may be the header of a TIFF file of the same pixels
        return open_dicom(file)
    try:
        return Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError as error:  # Pillow hides the size
        raise _too_many(str(error).partition("(")[2].partition(" ")[0]) from None
    except UnidentifiedImageError:
        if start[:4] not in TIFF_STARTS:
            return open_dicom(file)
        with io.BytesIO(source) if isinstance(source, bytes) else open(file, "rb") as opened:
            return _read_tiff(opened)


def _too_many(count: int | str) -> TooManyPixels:
    return TooManyPixels(f"{TOO_MANY}: {count}; the limit is {pixel_limit()} (if the file is right: "
                         f"--max_pixels={count})")


def pixel_limit() -> int | None:
    """Returns how many pixels an image may have; None: any number. Pillow warns at half of it, and refuses above."""
    return Image.MAX_IMAGE_PIXELS and 2 * Image.MAX_IMAGE_PIXELS


def set_pixel_limit(limit: int) -> None:
    """Sets `pixel_limit`, which is Pillow's own."""
    Image.MAX_IMAGE_PIXELS = max(1, (limit + 1) // 2)


def orientation(image: Image.Image) -> int:
    """Returns the orientation in the EXIF data of an image, 1 to 8; 1 if it has none, or damaged ones. Unlike Pillow it
    heeds no XMP, as hardly any other reader does."""
    bare = Image.Image()
    bare.info = {name: image.info[name] for name in EXIF if name in image.info}
    try:
        value = bare.getexif().get(0x0112, 1)
        return value if value in TURNS else 1
    except Exception:  # damaged EXIF data raise nearly anything
        return 1


def _eight_bits(image: Image.Image) -> Image.Image:
    """Returns an image, upright, in 8 bits: as Pillow reads it, but for what it would cut or read wrongly."""
    tags = getattr(image, "tag_v2", {})
    if is_deep_color(image):
        image.fp.seek(0)
        if tags:  # OpenCV turns TIFF upright, and PNG not
            page = image.tell()
            return _read_tiff(image.fp, page) if page or tags.get(284) == 2 else _read_deep(image.fp.read())
        gray = _raw_modes(image)[0].startswith("L")  # which Pillow makes RGBA
        return _turn(_read_deep(image.fp.read(), gray), orientation(image))
    image.load()  # a PNG may hold the orientation behind its pixels
    if tags:  # newer Pillow has turned it already
        upright = ImageOps.exif_transpose(image) if tags.get(0x0112) in TURNS else image
    else:
        upright = _turn(image, orientation(image))
    if image.mode.startswith(("I", "F")):
        values = np.asarray(upright)
        if tags and image.mode == "I" and tags.get(339, (1,))[0] == 1:
            values = values.view(np.uint32)  # Pillow's numbers have a sign
        return _stretch(values, inverted=tags.get(262) == 0)  # WhiteIsZero; Pillow heeds it in 8 bits only
    if image.mode == "P" and (colors := np.array(tags.get(320, ()))).size and colors.max() < 256:
        # TIFF has color maps of 16 bits, but old writers fill 8 of them.
        return Image.fromarray(colors.reshape(3, -1).T.astype(np.uint8)[np.asarray(upright)])
    return upright


def is_deep_color(image: Image.Image) -> bool:
    """Returns whether an opened image is color, or gray with transparency, of 16 bits per channel."""
    return image.mode in ("RGB", "RGBA", "LA") and (
        image.format in ("PNG", "TIFF") and any(";16" in raw for raw in _raw_modes(image))
        or image.format == "TIFF" and max(image.tag_v2.get(258, (8,))) == 16)  # in planes, whose raw modes are R, G, B


def _raw_modes(image: Image.Image) -> list[str]:
    return [str(tile.args if isinstance(tile.args, str) else tile.args[0]) for tile in getattr(image, "tile", ())
            if tile.args]


def _turn(image: Image.Image, orientation: int | None) -> Image.Image:
    """Undoes an orientation, and forgets it."""
    if orientation not in TURNS:
        return image
    image = image.transpose(TURNS[orientation])
    image.info = {name: value for name, value in image.info.items() if name not in EXIF}
    return image


def _read_deep(data: bytes, gray: bool = False) -> Image.Image:
    """Reads PNG or TIFF of 16 bits whose pixels have their channels side by side."""
    import cv2

    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        raise ValueError("color of 16 bits per channel that cannot be decoded: save it again")
    return _stretch(values[..., 0] if gray else values[..., 2::-1])


def _read_tiff(file: Any, number: int = 0) -> Image.Image:
    """Reads a page of a TIFF file, gray or RGB of any depth, upright, in 8 bits."""
    try:
        import tifffile
    except ImportError:
        raise ValueError("TIFF of this kind needs tifffile: pip install tifffile") from None
    file.seek(0)
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it warns of damaged files before it raises
    with tifffile.TiffFile(file) as opened:
        page = opened.pages[number]
        if pixel_limit() and page.imagewidth * page.imagelength > pixel_limit():
            raise _too_many(page.imagewidth * page.imagelength)
        if page.photometric not in (0, 1, 2) or page.imagedepth > 1:
            raise ValueError(f"TIFF of the kind {page.photometric.name} and {page.bitspersample} bits cannot be read: "
                             "save it as RGB or gray")
        try:
            values = page.asarray()
        except ValueError as error:
            raise ValueError(f"{error}: pip install imagecodecs" if "imagecodecs" in str(error) else error) from error
    if page.samplesperpixel > 1 and page.planarconfig == 2:
        values = np.moveaxis(values, 0, -1)
    values = values.reshape(page.imagelength, page.imagewidth, -1)
    image = _stretch(values[..., :3] if page.photometric == 2 else values[..., 0], inverted=page.photometric == 0)
    return _turn(image, page.tags.valueof(0x0112))


def _stretch(values: np.ndarray, inverted: bool = False) -> Image.Image:
    """Maps numbers, (H, W) or (H, W, 3), from their lowest to their highest to 8 bits."""
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise ValueError("holds numbers that are not finite (NaN or infinite)")
    scale = 255.0 / (high - low) if high > low else 0.0
    pixels = np.empty(values.shape, np.uint8)
    for row in range(0, len(values), 256):  # in parts, to save memory: 8 bytes per number
        part = (values[row:row + 256].astype(np.float64) - low) * scale
        pixels[row:row + 256] = np.round(part, out=part)
    return Image.fromarray(255 - pixels if inverted else pixels)


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Yields marker and position of each segment of a JPEG up to the first scan (0xDA), which is the last one; ends
    before it if something else is found there."""
    place = 2
    while data[place:place + 1] == b"\xff" and place + 4 <= len(data):
        yield data[place + 1], place
        if data[place + 1] == 0xDA:
            return
        place += 2 + int.from_bytes(data[place + 2:place + 4], "big")


def lacks_end(data: bytes) -> bool:
    """Returns whether a JPEG has no end marker behind its first scan; False of anything else."""
    if not data.startswith(b"\xff\xd8"):
        return False
    *_, (marker, place) = [(0, 0), *jpeg_segments(data)]
    return marker == 0xDA and data.find(b"\xff\xd9", place) < 0


def _add_end(image: Image.Image) -> bytes:
    """Returns a JPEG that lacks nothing but its end marker with that; b"" for any other image."""
    if image.format != "JPEG" or getattr(image, "fp", None) is None or image.info.get("progressive"):
        return b""
    image.fp.seek(0)
    data = image.fp.read().rstrip(b"\xff")  # half a marker
    places = dict(jpeg_segments(data))
    scan = data[places.get(0xDA, len(data)):]
    if not lacks_end(data) or scan.count(b"\xff\xda") > 1 or _lacks_parts(data, places, scan):
        return b""
    try:  # all pixels are there if what follows does not change them
        seen = {read_image(data + more * 64 + b"\xff\xd9", keep_gray=True).tobytes() for more in NOISE}
    except OSError:
        return b""
    return data + b"\xff\xd9" if len(seen) == 1 else b""


def _lacks_parts(data: bytes, places: dict[int, int], scan: bytes) -> bool:
    """Returns whether a JPEG that is divided by restart markers has fewer of them than its size needs."""
    if 0xDD not in places or not (frame := places.get(0xC0, places.get(0xC1, 0))):
        return False
    height, width = (int.from_bytes(data[frame + at:frame + at + 2], "big") for at in (5, 7))
    sampling = [data[frame + 11 + 3 * number] for number in range(data[frame + 9])] if data[frame + 9] > 1 else [0x11]
    across, down = max(one >> 4 for one in sampling), max(one & 15 for one in sampling)
    blocks = -(-width // (8 * across)) * -(-height // (8 * down))
    restart = places[0xDD] + 4
    parts = -(-blocks // (int.from_bytes(data[restart:restart + 2], "big") or blocks))
    return len(re.findall(rb"\xff[\xd0-\xd7]", scan)) < parts - 1


def open_dicom(file: Any) -> Image.Image:
    """Opens a DICOM file, a path or an open one; UnidentifiedImageError if it is none, or there is no busfast, as where
    only an exported model is."""
    try:
        from busfast.data.sources.dicom_image import DicomImage

        return DicomImage(file)
    except (ImportError, SyntaxError):
        raise UnidentifiedImageError(f"cannot identify image file {file!r}") from None


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
    if isinstance(error, TooManyPixels):
        return str(error)
    cut = "; the file is cut off: copy it again from where it came from" if "truncated" in str(error) else ""
    return f"{type(error).__name__}: {error}{cut}"


if os.environ.get(MAX_PIXELS, "").isdecimal():
    set_pixel_limit(int(os.environ[MAX_PIXELS]))
