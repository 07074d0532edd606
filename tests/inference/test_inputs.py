"""A list for predict finds images as other tables do, and names them as the list does."""

from pathlib import Path

import pytest
from PIL import Image

from busfast.errors import UserError
from busfast.inference.inputs import list_inputs


def test_a_list_finds_images_under_other_writings_and_says_so(tmp_path, capsys):
    for name in ("IMG_1.JPG", "sub/2.png", "Gro\u0308\u00dfe.png", "masks/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8)).save(tmp_path / name)
    names = ["img_1.jpg", "2", "Gr\u00f6\u00dfe.png", "/elsewhere/set/IMG_1.JPG", "gone.png", "sub\\2.png"]
    (tmp_path / "list.csv").write_text("image\n" + "\n".join(names) + "\n", encoding="utf-8")
    found, paths = list_inputs(tmp_path / "list.csv")
    assert found == names
    assert paths == [tmp_path / name for name in ("IMG_1.JPG", "sub/2.png", "Gro\u0308\u00dfe.png", "IMG_1.JPG",
                                                  "gone.png", "sub/2.png")]
    assert "4 images found by name, such as IMG_1.JPG for 'img_1.jpg'" in capsys.readouterr().out


def test_a_list_of_images_that_are_there_says_nothing(tmp_path, capsys):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "list.csv").write_text("image\na.png\n")
    assert list_inputs(tmp_path / "list.csv")[1] == [Path(tmp_path / "a.png")] and capsys.readouterr().out == ""


def test_masks_beside_images_get_no_row_and_that_is_said(tmp_path, capsys):
    for name in ("a/1.png", "a/1_mask.png", "b/2.png", "b/masks/2.png", "b/other_view.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((20, 20), 60).save(tmp_path / name)
    names, _ = list_inputs(tmp_path)
    assert [Path(name).relative_to(tmp_path).as_posix() for name in names] == ["a/1.png", "b/2.png", "b/other_view.png"]
    assert "2 files left out as masks of images, such as" in capsys.readouterr().out
    assert len(list_inputs(tmp_path / "b/masks")[0]) == 1  # asked for by name


@pytest.mark.parametrize("header", ["file", "Image Path,note", "filename,label", "note,image"])
def test_a_list_may_call_its_column_of_images_as_others_do(tmp_path, header):
    Image.new("L", (9, 9)).save(tmp_path / "a.png")
    cells = ["a.png" if title not in ("note", "label") else "x" for title in header.split(",")]
    (tmp_path / "list.csv").write_text(f"{header}\n{','.join(cells)}\n")
    assert list_inputs(tmp_path / "list.csv") == (["a.png"], [tmp_path / "a.png"])


def test_a_list_without_a_column_of_images_names_what_it_needs(tmp_path):
    (tmp_path / "list.csv").write_text("epoch,loss\n1,0.5\n")
    with pytest.raises(UserError, match="row 1: the column 'image' is missing"):
        list_inputs(tmp_path / "list.csv")
