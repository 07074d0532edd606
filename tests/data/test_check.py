"""Every image is looked at before training: broken ones are refused by name, copies put into groups and said."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from busfast.data.audit import audit_images
from busfast.data.check import check_images
from busfast.data.groups import add_groups
from busfast.data.table import Table
from busfast.errors import UserError


def texture(seed):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (10, 12), dtype=np.uint8)).resize((120, 100), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path):
    """Four pictures; of the first a copy in another format and one of half the size; two broken files."""
    for number in range(4):
        texture(number).save(tmp_path / f"{number}.png")
    texture(0).save(tmp_path / "copy.bmp")
    texture(0).resize((60, 50)).save(tmp_path / "half.jpg")
    (tmp_path / "cut.png").write_bytes((tmp_path / "1.png").read_bytes()[:900])
    (tmp_path / "text.jpg").write_text("a page that says: file not found")
    return tmp_path


def table_of(folder, *names, **columns):
    columns = {"image": list(names), "label": "benign", "center": "A", "patient": ""} | columns
    return Table(pd.DataFrame(columns, dtype=object), folder)


def test_broken_images_are_named_and_nothing_is_changed(folder):
    table = table_of(folder, "0.png", "text.jpg", "1.png", "cut.png")
    before, files = table.rows.copy(), {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(UserError) as caught:
        check_images(table)
    message = str(caught.value)
    assert f"2 of 4 images in {folder}" in message
    assert "  text.jpg: " in message and "  cut.png: " in message and "0.png" not in message
    pd.testing.assert_frame_equal(table.rows, before)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == files


def test_five_broken_images_are_named_and_the_rest_counted(folder):
    with pytest.raises(UserError, match="7 of 7 images") as caught:
        check_images(table_of(folder, *(f"none {number}.png" for number in range(7))))
    assert str(caught.value).count("no such file") == 5
    assert "and 2 more" in str(caught.value)


def test_duplicates_and_patients_become_groups(folder):
    names = ["0.png", "1.png", "copy.bmp", "2.png", "half.jpg", "3.png"]
    table = table_of(folder, *names, patient=["", "p", "", "p", "q", ""])
    duplicates = check_images(table)
    groups = add_groups(table.rows, duplicates["a"], duplicates["b"])["group"].tolist()
    assert groups[0] == groups[2] == groups[4] != "" and groups[1] == groups[3] != "" and groups[5] == ""
    assert set(groups) == {groups[0], groups[1], ""}
    assert {(kind, frozenset(pair)) for kind, *pair in duplicates[["kind", "image", "other"]].to_numpy()} >= {
        ("identical", frozenset(("0.png", "copy.bmp")))}


def test_identical_images_with_different_labels_are_said(folder, capsys):
    check_images(table_of(folder, "0.png", "copy.bmp", "1.png", label=["benign", "malignant", "benign"]))
    out = capsys.readouterr().out
    assert "1 identical pair: each stays on one side" in out
    assert "identical images with different labels: 0.png (benign), copy.bmp (malignant)" in out


def test_good_images_without_copies_are_passed_without_a_word_on_copies(folder, capsys):
    assert check_images(table_of(folder, "0.png", "1.png", "2.png")).empty
    assert capsys.readouterr().out == "  all 3 images decode\n"


def test_files_of_several_pages_and_jpegs_without_their_end_are_said_and_listed(folder, capsys):
    for name in ("pages.tif", "moving.gif", "moving.webp"):
        texture(5).save(folder / name, save_all=True, append_images=[texture(6)])
    for number, suffix in enumerate((".jpg", ".jpeg")):
        texture(7 + number).save(folder / f"cut{suffix}", "JPEG")
        data = (folder / f"cut{suffix}").read_bytes()
        (folder / f"cut{suffix}").write_bytes(data[:-2])
    table = table_of(folder, "1.png", "pages.tif", "moving.gif", "cut.jpg", "moving.webp", "cut.jpeg")
    check_images(table)
    out = capsys.readouterr().out
    assert "  3 files of several pages: the first one is used, such as pages.tif" in out
    assert "  2 files cut off behind the last pixel (JPEG without an end marker), such as cut.jpg" in out
    found = audit_images(table, ["benign"], decisions={})[0].findings
    pages = found[found["finding"] == "several pages, the first used"]
    assert [*pages["image"]] == ["pages.tif", "moving.gif", "moving.webp"] and set(pages["detail"]) == {"has 2 pages"}
    assert [*found["image"][found["finding"] == "cut off"]] == ["cut.jpg", "cut.jpeg"]
