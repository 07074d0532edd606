"""Of files with several pages the first is used and that is said, or those that are asked for become images."""

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from busfast.data.images import read_image
from busfast.data.prepare import prepare
from busfast.errors import UserError


def page(number, size=(30, 20)):
    pixels = np.random.default_rng(number).integers(0, 256, size[::-1], dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two classes, each of a plain image and one of several pages; of the TIFF, color of 16 bits."""
    monkeypatch.chdir(tmp_path)
    for label in ("benign", "malignant"):
        (tmp_path / "in" / label).mkdir(parents=True)
        page(9 + len(label)).save(tmp_path / "in" / label / "plain.png")
    page(0).save("in/benign/moving.gif", save_all=True, append_images=[page(1), page(2), page(3)])
    deep = np.random.default_rng(5).integers(0, 65536, (5, 20, 30, 3)).astype(np.uint16)
    deep[:, 0, 0], deep[:, -1, -1] = 0, 65535
    with tifffile.TiffWriter("in/malignant/stack.tif") as file:
        for one in deep:
            file.write(one, photometric="rgb", contiguous=False)
    return deep


def test_without_a_word_the_first_page_is_used_and_that_is_said(folder, capsys):
    table = prepare(["folder"], ["in"], "out")
    assert table.rows["image"].tolist() == ["folder/benign/moving.gif", "folder/benign/plain.png",
                                            "folder/malignant/plain.png", "folder/malignant/stack.tif"]
    assert ("2 files of several pages, such as 'benign/moving.gif': the first page is used (others: --pages=middle, "
            "all or every:N)") in capsys.readouterr().out


@pytest.mark.parametrize(("pages", "taken"), [("first", [0]), ("middle", [2]), ("all", [0, 1, 2, 3, 4]),
                                              ("every:2", [0, 2, 4])])
def test_the_pages_that_are_asked_for_become_images_of_one_group(folder, pages, taken):
    table = prepare(["folder"], ["in"], "out", pages=pages).rows
    stack = table[table["image"].str.contains("stack")]
    assert stack["image"].tolist() == [f"images/folder/malignant/stack.tif_{number + 1:04}.png" for number in taken]
    assert set(stack["group"]) == {"folder/malignant/stack.tif"} and set(stack["label"]) == {"malignant"}
    for path, number in zip(stack["image"], taken, strict=True):
        expected = np.round(folder[number] * (255 / 65535))
        assert np.abs(np.asarray(Image.open(f"out/{path}")) - expected).max() <= 1
    moving = table["image"][table["image"].str.contains("moving")]
    assert len(moving) == len(range(0, 4, 2) if pages == "every:2" else taken[:4])
    assert (table["image"].str.contains("plain") == (table["group"] == "")).all()
    assert pd.read_csv("out/table.csv")["group"].nunique() == 2


def test_a_frame_of_a_gif_is_the_one_that_viewers_show(folder):
    table = prepare(["folder"], ["in"], "out", pages="middle").rows
    path = next(image for image in table["image"] if "moving" in image)
    with Image.open("in/benign/moving.gif") as shown:
        shown.seek(2)
        assert np.array_equal(np.asarray(Image.open(f"out/{path}").convert("RGB")), np.asarray(shown.convert("RGB")))
    assert np.array_equal(read_image("in/benign/moving.gif"), page(0).convert("RGB"))


def test_a_wrong_word_is_refused_and_a_damaged_page_writes_nothing(folder, tmp_path):
    with pytest.raises(UserError, match="--pages=last: name the pages of a file that become images: first, middle"):
        prepare(["folder"], ["in"], "out", pages="last")
    page(0).save("in/benign/cut.tif", save_all=True, append_images=[page(1)], compression="tiff_lzw")
    data = bytearray((tmp_path / "in/benign/cut.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "in/benign/cut.tif") as file:
        start = file.pages[1].dataoffsets[0]
    data[start:start + 200] = b"\xff" * 200
    (tmp_path / "in/benign/cut.tif").write_bytes(data)
    with pytest.raises(UserError, match="cut.tif, page 2: .* Nothing was written"):
        prepare(["folder"], ["in"], "out", pages="all")
    assert not (tmp_path / "out").exists()
