"""Nothing reaches DALI but what it was seen to decode as Pillow does."""

import io
import zlib

import numpy as np
import pytest
import torch
from data.test_images import XMP, lossless_jpeg, write_png
from PIL import Image

from busfast.data.images import load_pixels
from busfast.pipelines.dali_formats import dali_mode
from busfast.pipelines.image import ImagePipeline

NOISE = Image.effect_noise((60, 40), 70)
COLOR = Image.merge("RGB", [NOISE, NOISE.rotate(180), NOISE.transpose(Image.Transpose.FLIP_LEFT_RIGHT)])


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def exif(kind, *values):
    """EXIF data whose orientation is written as a TIFF type: 1 byte, 3 short, 4 long."""
    value = b"".join(number.to_bytes({1: 1, 3: 2, 4: 4}[kind], "little") for number in values).ljust(4, b"\0")
    return b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01" + kind.to_bytes(2, "little") + \
        len(values).to_bytes(4, "little") + value + bytes(4)


def segment(marker, data, length=None):
    return bytes([0xFF, marker]) + (length or len(data) + 2).to_bytes(2, "big") + data


def with_segment(jpeg, more):
    return jpeg[:2] + more + jpeg[2:]


JPEG = saved(COLOR, "JPEG")
FILES = {
    "gray.jpg": saved(NOISE, "JPEG"), "color.jpg": JPEG, "progressive.jpg": saved(COLOR, "JPEG", progressive=True),
    "rgb.jpg": saved(COLOR, "JPEG", keep_rgb=True), "xmp.jpg": saved(COLOR, "JPEG", xmp=XMP),
    "gray.png": saved(NOISE, "PNG"), "color.png": saved(COLOR, "PNG"), "alpha.png": saved(COLOR.convert("RGBA"), "PNG"),
    "profile.png": saved(COLOR, "PNG", icc_profile=b"none" * 50), "dpi.png": saved(COLOR, "PNG", dpi=(72, 72)),
}
TURNED = {f"{kind}{count}.jpg": saved(COLOR, "JPEG", exif=exif(kind, *[6] * count))
          for kind in (1, 3, 4) for count in (1, 2)}
TURNED |= {"twice.jpg": with_segment(saved(COLOR, "JPEG", exif=exif(3, 1)), segment(0xE1, exif(3, 6))),
           "cut.jpg": saved(COLOR, "JPEG", exif=exif(3, 6)[:-6]), "turned.png": saved(COLOR, "PNG", exif=exif(3, 6))}
PILLOWS = {
    "no_end.jpg": JPEG[:-2], "junk.jpg": with_segment(JPEG, segment(0xFE, b"note") + b"junk"),
    "comment.jpg": with_segment(JPEG, segment(0xFE, b"note", 9)), "lossless.jpg": lossless_jpeg(200),
    "cmyk.jpg": saved(COLOR.convert("CMYK"), "JPEG"), "palette.png": saved(COLOR.quantize(9), "PNG"),
    "transparent.png": saved(COLOR, "PNG", transparency=(1, 2, 3)), "deep.png": saved(NOISE.convert("I;16"), "PNG"),
    "moving.png": saved(COLOR, "PNG", save_all=True, append_images=[COLOR.rotate(90)]),
    "gif.png": saved(NOISE, "GIF"), "text.jpg": b"no image",
}


def mode(data):
    return dali_mode(np.frombuffer(data, np.uint8))


def test_what_was_compared_goes_to_dali():
    assert {name: mode(data) for name, data in FILES.items()} == {
        name: "L" if "gray" in name else "RGBA" if "alpha" in name else "RGB" for name in FILES}


@pytest.mark.parametrize("name", [*PILLOWS, "turned.png", "31.jpg", "41.jpg"])
def test_all_else_is_pillows(name):
    assert mode((PILLOWS | TURNED)[name]) == ""


def test_a_still_png_with_an_animation_of_no_frames_is_pillows(tmp_path):
    pixels = b"".join(b"\0" + bytes([number] * 90) for number in range(20))
    for chunks in ([(b"acTL", bytes(8))], [(b"acTL", bytes(7) + b"\1" + bytes(4))], [(b"fdAT", bytes(4))]):
        write_png(tmp_path / "a.png", (30, 20, 8, 2), pixels, *chunks)
        assert mode((tmp_path / "a.png").read_bytes()) == ""
    write_png(tmp_path / "a.png", (30, 20, 8, 2), pixels, (b"tEXt", b"Title\0acTL"), (b"zTXt", b"a\0\0" + zlib.compress(
        b"fdAT")))
    assert mode((tmp_path / "a.png").read_bytes()) == "RGB"


@pytest.mark.parametrize("resize", ["squash", "pad"])
@pytest.mark.parametrize("name", [*FILES, *TURNED, *PILLOWS])
def test_both_loaders_see_the_same_picture(tmp_path, name, resize):
    pytest.importorskip("nvidia.dali")
    from busfast.pipelines.dali_loader import DaliLoader

    if name == "text.jpg":
        return
    path = tmp_path / name
    path.write_bytes((FILES | TURNED | PILLOWS)[name])
    loader = DaliLoader(ImagePipeline(size=32, resize=resize), 1, torch.device("cpu"), threads=1)
    (batch,) = loader.batches([[str(path)]])
    expected = load_pixels(path, 32, resize).astype(int)
    assert np.abs(batch.numpy()[0].astype(int) - expected).mean() < 1, name
