"""Which image files DALI decodes to the same pixels as Pillow: a whitelist of what was compared, all else is Pillow's.

DALI has ended the whole process on an animated PNG, and it turns an image by orientations that Pillow does not heed.
"""

import numpy as np

from busfast.data.images import jpeg_segments, lacks_end, open_image, orientation

# Pillow's raw modes that DALI decodes to the same pixels (tested).
SAME = {"JPEG": {"L", "RGB"}, "PNG": {"L", "RGB", "RGBA"}}
CHUNKS = {b"IHDR", b"IDAT", b"IEND", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"sBIT", b"bKGD", b"pHYs", b"tIME", b"tEXt",
          b"zTXt", b"iTXt", b"eXIf"}  # of PNG; none of animations (acTL, fcTL, fdAT) nor tRNS
FRAMES = {0xC0, 0xC1, 0xC2}  # of JPEG: baseline, extended and progressive by Huffman; none that are lossless


def dali_mode(data: np.ndarray, enough: int = 0) -> str:
    """Returns Pillow's raw mode of an encoded image, bytes as uint8 (N,), that DALI decodes to the same pixels; "" if
    Pillow must decode it, as it does a JPEG of at least twice `enough` pixels a side, at reduced size."""
    try:
        encoded = data.tobytes()
        with open_image(encoded) as image:
            if enough and image.format == "JPEG" and min(image.size) >= 2 * enough:
                return ""
            raw_mode = image.tile[0].args if image.tile else ""
            if isinstance(raw_mode, tuple):
                raw_mode = raw_mode[0]
            same = raw_mode in SAME.get(image.format, ()) and orientation(image) == 1 \
                and (_is_plain_jpeg(encoded) if image.format == "JPEG" else _is_plain_png(encoded))
            return raw_mode if same else ""
    except Exception:  # read_image will report it
        return ""


def _is_plain_jpeg(data: bytes) -> bool:
    markers = [marker for marker, _ in jpeg_segments(data)]
    frames = {marker for marker in markers if 0xC0 <= marker <= 0xCF} - {0xC4}  # without Huffman tables
    return markers[-1:] == [0xDA] and frames <= FRAMES and not lacks_end(data)


def _is_plain_png(data: bytes) -> bool:
    place, kind = 8, b""
    while kind != b"IEND" and place + 12 <= len(data):
        kind = data[place + 4:place + 8]
        if kind not in CHUNKS:
            return False
        place += 12 + int.from_bytes(data[place:place + 4], "big")
    return kind == b"IEND"
