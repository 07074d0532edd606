"""A file is found by what people write for it, if only one can be meant; a mask is never taken for an image."""

import pytest

from busfast.data.finder import Finder, files_below

PATHS = ["photos/0.png", "masks/0.png", "A/IMG_1.JPG", "train/p1/view.jpg", "x/1.2.840.png", "Gr\u00f6\u00dfe.png",
         "scans/c.dcm", "e.png", "x/e.png", "g.png", "g.jpg", "images_and_masks/h.png", "train_masks/only.png"]


@pytest.mark.parametrize(("written", "found"), [
    ("0", ["photos/0.png"]), ("0.png", ["photos/0.png"]), ("masks/0.png", ["masks/0.png"]), ("only", []),
    ("h", ["images_and_masks/h.png"]),
    ("a/img_1.jpg", ["A/IMG_1.JPG"]), ("IMG_1", ["A/IMG_1.JPG"]), ("A\\IMG_1.JPG", ["A/IMG_1.JPG"]),
    ("Set-1.0/train/p1/view.jpg", ["train/p1/view.jpg"]), ("/home/anna/train/p1/view.jpg", ["train/p1/view.jpg"]),
    ("C:\\study\\e.png", ["e.png"]), ("other/0.png", []), ("../e.png", []), ("p1/view", ["train/p1/view.jpg"]),
    ("1.2.840", ["x/1.2.840.png"]), ("1.2", []), ("Gro\u0308\u00dfe.PNG", ["Gr\u00f6\u00dfe.png"]),
    ("c", ["scans/c.dcm"]),
    ("e.png", ["e.png"]), ("g", ["g.png", "g.jpg"]), ("g.PNG", ["g.png"]), ("nothing", []), ("", []),
])
def test_an_image_is_found_if_only_one_can_be_meant(written, found):
    assert Finder(PATHS)(written) == found


def test_a_composed_name_finds_a_decomposed_file():
    assert Finder(["a/Gro\u0308\u00dfe.png"])("Gr\u00f6\u00dfe") == ["a/Gro\u0308\u00dfe.png"]


def test_masks_are_found_among_masks():
    assert Finder(PATHS)("0", masks=True) == ["masks/0.png"]
    assert Finder(PATHS)("h", masks=True) == ["images_and_masks/h.png"]


def test_by_name_the_folders_may_differ_and_nothing_is_a_mask():
    find = Finder(["set/images/a.png", "set/masks/b.png", "set/c.png", "more/c.png"], by_name=True)
    assert [find(name) for name in ("elsewhere/a.png", "b", "x/c.jpg")] == [
        ["set/images/a.png"], ["set/masks/b.png"], ["set/c.png", "more/c.png"]]


def test_hidden_files_and_those_of_other_kinds_are_not_found(tmp_path):
    for name in ("a.PNG", "sub/b.jpg", "sub/.c.jpg", "__MACOSX/d.jpg", ".git/e.jpg", "f.txt", "sub/g.dcm",
                 "sub/IM0001"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert files_below(tmp_path) == ["a.PNG", "sub/IM0001", "sub/b.jpg", "sub/g.dcm"]
