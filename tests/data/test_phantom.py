"""What the phantom promises: same seed same files, a sound table, and never a user's file overwritten.

Covers busfast/data/phantom_image.py, busfast/data/phantom_tissue.py and busfast/data/generators.py, too.
"""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from busfast.data import phantom
from busfast.data.phantom import CENTERS, CLASSES, make_image, write_phantom
from busfast.errors import UserError


@pytest.fixture(scope="module")
def table(phantom_folder):
    return phantom_folder / "table.csv"


@pytest.fixture(scope="module")
def rows(table):
    with open(table, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_same_seed_gives_byte_identical_files(tmp_path):
    first, second = (write_phantom(tmp_path / name, images=16, seed=3).parent for name in "ab")
    assert _files(first) == _files(second)


def test_another_seed_gives_other_images(tmp_path):
    first, second = (_files(write_phantom(tmp_path / str(seed), images=4, seed=seed).parent) for seed in (1, 2))
    assert not {data for name, data in first.items() if name.startswith("images/")} & set(second.values())


def test_table_has_the_columns_and_every_file_exists(table, rows):
    assert list(rows[0]) == ["image", "label", "center", "patient", "device", "mask"]
    assert len(rows) == len({row["image"] for row in rows}) == 90
    listed = {row["image"] for row in rows} | {row["mask"] for row in rows if row["mask"]}
    assert listed == {name for name in _files(table.parent) if name.startswith(("images/", "masks/"))}


def test_every_center_has_every_class_in_about_the_planned_shares(rows):
    assert {(row["center"], row["label"]) for row in rows} == {(c.name, label) for c in CENTERS for label in CLASSES}
    for label, share in zip(CLASSES, (0.25, 0.50, 0.25), strict=True):
        assert sum(row["label"] == label for row in rows) / len(rows) == pytest.approx(share, abs=0.06)
    for center in CENTERS:
        assert sum(row["center"] == center.name for row in rows) / len(rows) == pytest.approx(center.share, abs=0.01)


def test_a_patient_has_one_to_four_images_one_center_and_one_kind_of_lesion(rows):
    for patient in {row["patient"] for row in rows}:
        own = [row for row in rows if row["patient"] == patient]
        assert 1 <= len(own) <= 4
        assert {row["center"] for row in own} == {patient.split("_")[0]}
        assert len({row["label"] for row in own} - {"normal"}) <= 1


def test_file_names_do_not_tell_the_label(rows):
    assert not any(label in row["image"] + row["mask"] for row in rows for label in CLASSES)


def test_masks_fit_their_images_and_only_lesions_have_one(table, rows):
    for row in rows:
        assert bool(row["mask"]) == (row["label"] != "normal")
        with Image.open(table.parent / row["image"]) as image:
            assert image.mode == "L"
            size = image.size
        if row["mask"]:
            with Image.open(table.parent / row["mask"]) as image:
                assert image.size == size
                mask = np.array(image)
            assert set(np.unique(mask)) == {0, 255}
            border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
            assert not border.any()


@pytest.mark.parametrize("center", CENTERS, ids=lambda center: center.name)
@pytest.mark.parametrize("label", CLASSES)
def test_make_image_returns_a_gray_image_and_a_mask_of_its_size(label, center):
    image, mask = make_image(np.random.default_rng(5), label, center)
    assert image.dtype == mask.dtype == np.uint8
    assert image.shape == mask.shape
    assert image.std() > 10
    assert mask.any() == (label != "normal")


def test_make_image_refuses_an_unknown_label():
    with pytest.raises(ValueError, match="cyst"):
        make_image(np.random.default_rng(0), "cyst", CENTERS[0])


def test_the_folder_says_that_it_is_synthetic(table):
    assert "synthetic" in (table.parent / "README.md").read_text(encoding="utf-8")
    assert json.loads((table.parent / "phantom.json").read_text(encoding="utf-8"))["phantom"] is True


def test_a_second_call_rewrites_nothing(tmp_path):
    folder = tmp_path / "data"
    write_phantom(folder, images=4)
    before = {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}
    assert write_phantom(folder, images=4) == folder / "table.csv"
    assert {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]} == before


def test_an_empty_folder_is_filled(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    assert write_phantom(folder, images=3).is_file()


def test_a_foreign_folder_is_refused_and_left_as_it_was(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "table.csv").write_text("mine")
    with pytest.raises(UserError, match="data.*another folder"):
        write_phantom(tmp_path / "data", images=3)
    assert _files(tmp_path) == {"data/table.csv": b"mine"}


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "data").write_text("mine")
    with pytest.raises(UserError, match="another folder"):
        write_phantom(tmp_path / "data", images=3)
    assert _files(tmp_path) == {"data": b"mine"}


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="file.data.*another folder"):
        write_phantom(tmp_path / "file" / "data", images=3)


def test_a_phantom_of_another_recipe_is_refused_and_left_as_it_was(tmp_path):
    before = _files(write_phantom(tmp_path / "data", images=3).parent)
    with pytest.raises(UserError, match="another phantom"):
        write_phantom(tmp_path / "data", images=4)
    assert _files(tmp_path / "data") == before


@pytest.mark.parametrize("failure", [OSError, KeyboardInterrupt])
def test_a_failure_midway_leaves_no_folder_behind(tmp_path, monkeypatch, failure):
    calls = []

    def fail_at_third(*args):
        calls.append(args)
        if len(calls) == 3:
            raise failure
        return make_image(*args)

    monkeypatch.setattr(phantom, "make_image", fail_at_third)
    with pytest.raises(failure):
        write_phantom(tmp_path / "data", images=6)
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_every_image(tmp_path):
    seen = []
    write_phantom(tmp_path / "data", images=5, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(n, 5) for n in range(1, 6)]
