"""Images that would fill the memory, never end, or are broken in odd ways: refused one by one; the others go on."""

import io
import os
import struct
import warnings
import zlib

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from busfast.cli import main
from busfast.data.images import open_image, read_image
from security.hostile import BUNDLE, RUN, images, refused


def png(width, height, *chunks):
    """A PNG with a header of that size, chunks (type, content) and a little of what should follow."""
    head = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in (head, *chunks, (b"IDAT", zlib.compress(bytes(100_000))), (b"IEND", b"")))


def jpeg(width, height):
    file = io.BytesIO()
    Image.new("L", (16, 16), 99).save(file, "JPEG")
    data = file.getvalue()
    start = data.index(b"\xff\xc0")
    return data[:start + 5] + struct.pack(">HH", height, width) + data[start + 9:]


def bmp(width, height):
    return b"BM" + struct.pack("<IHHI", 10**6, 0, 0, 54) + struct.pack(
        "<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(1000)


def tiff(width, height, compression=1):
    tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, compression), (262, 3, 1), (273, 4, 200),
            (277, 3, 1), (278, 4, height), (279, 4, 1000)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return (b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)).ljust(200, b"\0") + bytes(1000)


def saved(mode, kind, size=(40, 30), **options):
    file = io.BytesIO()
    Image.new(mode, size, 77).save(file, kind, **options)
    return file.getvalue()


BOMBS = {"a.png": png(30_000, 30_000), "b.jpg": jpeg(30_000, 30_000), "c.bmp": bmp(30_000, 30_000),
         "d.tif": tiff(30_000, 30_000), "e.png": png(14_000, 14_000), "f.jpg": jpeg(14_000, 14_000),
         "g.bmp": bmp(14_000, 14_000), "h.tif": tiff(14_000, 14_000, 5), "i.png": png(2**31 - 1, 2**31 - 1)}
GIF = saved("P", "GIF", save_all=True, append_images=[Image.new("P", (40, 30), 5)])
ODD = {"text.png": png(9, 9, (b"zTXt", b"a\0\0" + zlib.compress(bytes(200_000_000)))),
       "profile.png": png(9, 9, (b"iCCP", b"a\0\0" + zlib.compress(bytes(200_000_000)))),
       "cut.png": saved("RGB", "PNG", (400, 300))[:-30], "cut.jpg": saved("RGB", "JPEG", (400, 300))[:700],
       "zero.png": png(0, 0), "zero.bmp": bmp(0, 0), "zero.tif": tiff(0, 0), "zero.jpg": jpeg(0, 0),
       "negative.bmp": bmp(-5, 7), "empty.png": b"", "head.tif": b"II*\0\xff\xff\xff\xff"}
GOOD = {"moving.png": GIF, "pages.tif": saved("L", "TIFF", save_all=True, append_images=[Image.new("L", (9, 9))] * 50)}


def write(folder, files):
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("name", BOMBS)
def test_too_many_pixels_are_refused_from_the_header_with_the_number_and_the_limit(tmp_path, name):
    write(tmp_path, BOMBS)
    for source in (tmp_path / name, BOMBS[name]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            for read in (read_image, open_image):
                with pytest.raises(ValueError, match=r"too many pixels to decode: \d+; the limit is 17"):
                    read(source)
    assert (tmp_path / name).stat().st_size < 10_000


def test_what_is_below_the_limit_is_read_and_the_limit_is_pillows(tmp_path, monkeypatch):
    write(tmp_path, GOOD)
    assert read_image(tmp_path / "moving.png").size == read_image(tmp_path / "pages.tif").size == (40, 30)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 599)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with pytest.raises(ValueError, match="1200; the limit is 1198 .if the file is right: --max_pixels=1200."):
            read_image(tmp_path / "pages.tif")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert read_image(tmp_path / "pages.tif").size == (40, 30)


def test_predict_gives_every_image_a_row_and_goes_on(exported_run, capfd):
    write(exported_run / "in", BOMBS | ODD | GOOD | {"z.png": images()[0].read_bytes()})
    assert main(["predict", "in", f"--model={BUNDLE}", "--out=out.csv", "--bs=4"]) == 0
    rows = pd.read_csv("out.csv", keep_default_na=False)
    rows.index = rows["image"].str.removeprefix("in/")
    assert list(rows.index) == sorted(BOMBS | ODD | GOOD | {"z.png": 0})
    assert (rows.loc[[*GOOD, "z.png"], "status"] == "ok").all()
    assert (rows.loc[list(BOMBS), "status"] == "unreadable").all()
    assert rows.loc[list(BOMBS), "reason"].str.startswith("too many pixels to decode").all()
    assert (rows.loc[list(ODD), "status"] == "unreadable").all(), rows.loc[list(ODD), ["status", "reason"]]
    assert "Bomb" not in "".join(capfd.readouterr())  # Pillow's warnings would only bury the reasons


def test_train_audit_and_explain_say_which_image_has_too_many_pixels(exported_run, capsys):
    image = images()[0]
    image.write_bytes(BOMBS["e.png"])
    said = refused("train", capsys)
    assert f"{image.name}: too many pixels to decode: 196000000" in said
    assert f"{image} cannot be read: too many pixels to decode" in refused(f"explain --run={RUN} --images={image}",
                                                                           capsys)
    assert main(["audit"]) == 0
    assert "196000000" in (exported_run / "data" / "phantom" / "audit" / "audit.csv").read_text()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_a_pipe_or_a_device_in_place_of_an_image_does_not_keep_anybody_waiting(exported_run):
    os.mkfifo("pipe.png")
    (exported_run / "list.csv").write_text(f"image\npipe.png\n/dev/zero\n/dev/tty\n{images()[0]}\n")
    assert main(["predict", "list.csv", f"--model={BUNDLE}", "--out=out.csv"]) == 0
    rows = pd.read_csv("out.csv", keep_default_na=False)
    assert rows["status"].tolist() == ["unreadable"] * 3 + ["ok"]
    assert rows["reason"].str.contains("not a regular file|no such file").tolist() == [True] * 3 + [False]


def test_numbers_of_deep_gray_are_stretched_as_before():
    deep = np.array([[0, 1000], [2000, 4095]], np.uint16)
    assert np.asarray(read_image(deep))[..., 0].tolist() == [[0, 62], [125, 255]]
