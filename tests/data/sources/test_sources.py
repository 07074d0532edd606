"""What the public sources promise: each set's layout read as it is, a clear word where it is not as it should be.

Covers busfast/data/sources/__init__.py, busfast/data/sources/breast.py, busfast/data/sources/btxrd.py,
busfast/data/sources/bus_bra.py, busfast/data/sources/bus_uclm.py, busfast/data/sources/busi.py and
busfast/data/sources/sheets.py.
"""

import sys

import pandas as pd
import pytest

from busfast.data.sources import SOURCES, btxrd, guess_source, read_source
from data.layouts import (
    COLUMNS,
    DATA,
    MAKERS,
    make_breast,
    make_btxrd,
    make_bus_bra,
    make_bus_uclm,
    make_busi,
    originals,
    refusal,
    rows,
)


@pytest.mark.parametrize("name", MAKERS)
def test_each_layout_is_recognised_and_no_other(name, tmp_path):
    MAKERS[name](tmp_path)
    assert guess_source(tmp_path) == name


@pytest.mark.parametrize("name", [name for name in MAKERS if name not in ("csv",)])
@pytest.mark.parametrize("above", ["", "outer", "outer/inner"])
def test_a_set_is_found_up_to_two_levels_below_the_folder_that_is_named(name, above, tmp_path):
    root = tmp_path / above
    root.mkdir(parents=True, exist_ok=True)
    MAKERS[name](root)
    assert guess_source(tmp_path) == name
    assert read_source(name, tmp_path).root == root


def test_nothing_is_guessed_of_a_folder_without_images(tmp_path):
    assert guess_source(tmp_path) == guess_source(tmp_path / "none") == ""


def test_masks_of_several_lesions_of_busi_are_given_together(tmp_path):
    table = read_source("busi", make_busi(tmp_path))
    assert rows(table, "image", "label", "mask")[:2] == [
        ["benign/benign (1).png", "benign", "benign/benign (1)_mask.png"],
        ["benign/benign (2).png", "benign", ("benign/benign (2)_mask.png", "benign/benign (2)_mask_1.png")]]
    assert table.rows["label"].value_counts().to_dict() == {"normal": 2, "benign": 2, "malignant": 2}
    assert set(table.rows["mask"][table.rows["label"] == "normal"]) == {""}  # they are black
    assert set(table.rows["center"]) == {"BUSI"} and set(table.rows["patient"]) == {""}


def test_a_mask_of_busi_without_its_image_is_missing_data(tmp_path):
    make_busi(tmp_path)
    (tmp_path / "benign" / "benign (1).png").unlink()
    assert "1 masks have no image, e.g. 'benign/benign (1)_mask.png'" in refusal("busi", tmp_path)
    assert len(read_source("busi", tmp_path, partial=True)) == 5


def test_bus_bra_has_patients_devices_and_findings(tmp_path):
    table = read_source("bus_bra", make_bus_bra(tmp_path))
    assert table.rows.iloc[0].to_dict() == {
        "image": "Images/bus_0001-l.png", "label": "malignant", "center": "BUS-BRA", "patient": "bus_bra_1",
        "device": "GE Logiq 7 @10-14MHz", "mask": "Masks/mask_0001-l.png", "birads": "4",
        "histology": "cyst, simple", "side": "left"}
    assert table.rows["patient"].nunique() == 2


def test_bus_uclm_has_patients_and_no_masks_of_normal_images(tmp_path):
    table = read_source("bus_uclm", make_bus_uclm(tmp_path))
    assert rows(table, "image", "label", "patient", "mask", "marks") == [
        ["images/ALWI_000.png", "benign", "bus_uclm_ALWI", "masks/ALWI_000.png", "yes"],
        ["images/ALWI_001.png", "normal", "bus_uclm_ALWI", "", "yes"],
        ["images/AL_WI_002.png", "malignant", "bus_uclm_AL_WI", "masks/AL_WI_002.png", "yes"]]
    assert "Benign -> benign (1)" in table.notes[0]


def test_breast_has_one_patient_a_row_and_masks_of_two_kinds(tmp_path):
    table = read_source("breast", make_breast(tmp_path))
    at = "images_and_masks/"
    assert rows(table, "image", "patient", "mask", "mask_other", "age", "birads", "histology") == [
        [f"{at}case001.png", "breast_1", f"{at}case001_tumor.png", "", "57", "2", ""],
        [f"{at}case002.png", "breast_2", (f"{at}case002_tumor1.png", f"{at}case002_tumor2.png"),
         f"{at}case002_other1.png", "", "4b", "Cyst"],
        [f"{at}case045.png", "breast_45", "", "", "32", "1", ""]]
    assert table.masks == ("mask", "mask_other")


def test_a_workbook_without_openpyxl_names_the_command_that_installs_it(tmp_path, monkeypatch):
    make_breast(tmp_path)
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    assert "pip install openpyxl" in refusal("breast", tmp_path)


def test_a_formula_in_a_workbook_is_not_run(tmp_path):
    make_breast(tmp_path, [(1, "case001.png", None, None, "=1+1", 2, '=HYPERLINK("http://x")', "normal")])
    assert rows(read_source("breast", tmp_path), "age", "histology") == [["", ""]]


def test_a_file_that_only_is_called_a_workbook_is_refused(tmp_path):
    (tmp_path / "labels.xlsx").write_bytes(b"no zip")
    assert "cannot be read as an Excel workbook" in refusal("csv", tmp_path)


def test_labels_of_btxrd_come_from_its_flags_and_images_are_found_by_their_name(tmp_path):
    table = read_source("btxrd", make_btxrd(tmp_path))
    assert rows(table, "image", "label", "center", "mask", "gender", "tumor") == [
        ["images/IMG000001.jpeg", "normal", "1", "", "F", "0"],
        ["images/IMG000002.jpg", "benign", "2", "Annotations/IMG000002.json", "F", "1"],
        ["images/IMG000003.jpeg", "malignant", "3", "Annotations/IMG000003.json", "F", "1"]]
    assert "1 file found by name, such as images/IMG000002.jpg for 'images/IMG000002.jpeg'" in table.notes


def test_flags_of_btxrd_that_contradict_each_other_are_refused_by_row(tmp_path):
    make_btxrd(tmp_path, [("0", "0", "0"), ("1", "1", "1"), ("0", "0", "0")])
    assert "dataset.csv, row 3, columns tumor, benign, malignant: 1, 1, 1 contradict" in refusal("btxrd", tmp_path)


def test_the_table_of_a_set_can_be_read_where_its_images_are_not(tmp_path):
    make_btxrd(tmp_path)
    for path in tmp_path.glob("images/*"):
        path.unlink()
    table = read_source("btxrd", tmp_path, files=False)
    assert rows(table, "image", "label", "center")[1] == ["images/IMG000002.jpeg", "benign", "2"]
    assert table.root == tmp_path


@pytest.mark.parametrize(("name", "gone", "said"), [
    ("bus_bra", "Images/bus_0002-s.png", "1 images of its 3 rows"), ("bus_bra", "Masks/mask_0002-s.png", "1 masks of"),
    ("bus_uclm", "images/AL_WI_002.png", "1 images of its 3 rows"),
    ("breast", "images_and_masks/case002_tumor2.png", "1 masks of"),
    ("btxrd", "images/IMG000003.jpeg", "1 images of its 3 rows"), ("csv", "b.png", "1 images of its 2 rows")])
def test_a_set_that_is_not_whole_is_refused_unless_part_of_it_is_asked_for(name, gone, said, tmp_path):
    MAKERS[name](tmp_path)
    (tmp_path / gone).unlink()
    columns = COLUMNS if name == "csv" else None
    message = refusal(name, tmp_path, columns=columns)
    assert said in message and f"'{gone}'" in message and "--partial" in message and ", e.g. row " in message
    table = read_source(name, tmp_path, partial=True, columns=columns)
    whole = 2 if name == "csv" else 3
    assert len(table) == (whole if "asks/" in gone or "tumor" in gone else whole - 1)
    assert gone not in table.rows["image"].tolist() and gone not in table.rows["mask"].tolist()
    assert any("are left out" in note for note in table.notes)


def test_a_wrong_set_is_told_which_one_it_looks_like(tmp_path):
    make_bus_bra(tmp_path)
    assert refusal("busi", tmp_path) == (
        f"{tmp_path} does not look like busi (class folders with CLASS (1).png and CLASS (1)_mask.png); it looks like "
        "bus_bra (bus_data.csv, Images and Masks). Use --source=bus_bra.")
    assert "Use --source=bus_bra." in refusal("folder", tmp_path)  # its folders are no classes


def test_an_unknown_source_and_a_folder_that_is_not_there_are_refused(tmp_path):
    assert "Did you mean 'busi'?" in refusal("bussi", tmp_path)
    assert f"There is no '{tmp_path / 'none'}'" in refusal("busi", tmp_path / "none")
    assert "does not look like busi" in refusal("busi", tmp_path)


def test_a_set_whose_table_is_missing_is_not_taken_for_class_folders(tmp_path):
    (make_bus_bra(tmp_path) / "bus_data.csv").unlink()
    message = refusal("bus_bra", tmp_path)
    assert "download the set again" in message and "looks like folder" not in message
    assert guess_source(tmp_path) == ""
    assert "the folder 'Images' is not named like a class" in refusal("folder", tmp_path)


def test_a_set_that_is_there_twice_is_not_chosen_from(tmp_path):
    for name in ("a", "b"):
        make_busi(tmp_path / name)
    assert f"2 times: {tmp_path / 'a'}, {tmp_path / 'b'}" in refusal("busi", tmp_path)


@originals
@pytest.mark.parametrize("name", ["busi", "bus_bra", "bus_uclm", "breast"])
def test_every_image_and_mask_of_the_original_layouts_is_accounted_for(name):
    if name == "breast":
        pytest.importorskip("openpyxl")
    table = read_source(name, DATA / "layouts" / name)
    named = {path for column in ("image", *table.masks) for cell in table.rows[column]
             for path in (cell if isinstance(cell, tuple) else [cell]) if path}
    there = {path.relative_to(table.root).as_posix() for path in table.root.rglob("*.png")}
    normal = {"busi": "normal/", "bus_uclm": "masks/"}.get(name, "none")
    assert {path for path in there - named if not path.startswith(normal)} == set()
    assert all("mask" in path for path in there - named)  # the black ones of normal images
    assert guess_source(DATA / "layouts" / name) == name
    assert set(table.rows["label"]) <= {"normal", "benign", "malignant"}


@originals
def test_the_two_lesions_of_an_original_of_busi_have_two_masks():
    table = read_source("busi", DATA / "layouts" / "busi").rows.set_index("image")
    assert table.loc["benign/benign (100).png", "mask"] == ("benign/benign (100)_mask.png",
                                                            "benign/benign (100)_mask_1.png")


@pytest.mark.skipif(not (DATA / "btxrd").is_dir(),
                    reason=f"no BTXRD: {DATA / 'btxrd'} (BUSFAST_TEST_DATA) is not there")
def test_the_whole_table_of_btxrd_has_the_published_counts():
    table = read_source("btxrd", DATA / "btxrd", files=False)
    counts = table.rows.groupby(["center", "label"]).size().unstack()[["normal", "benign", "malignant"]]
    assert counts.to_numpy().tolist() == [[1593, 1110, 235], [259, 214, 76], [27, 201, 31]]
    assert table.rows["label"].value_counts().to_dict() == SOURCES["btxrd"].published
    assert len(table.rows.columns) == 6 + 36 + 1  # "center" is in both; group is added


@pytest.mark.skipif(not (DATA / "btxrd").is_dir(),
                    reason=f"no BTXRD: {DATA / 'btxrd'} (BUSFAST_TEST_DATA) is not there")
def test_neighbours_of_btxrd_agree_far_more_often_than_chance_would_have_it():
    table = read_source("btxrd", DATA / "btxrd", files=False)
    tumors = table.rows[table.rows["tumor"] == "1"].drop(columns=["image", "image_id", "mask", "group", *btxrd.VIEWS])
    def neighbours(rows):
        return int((rows == rows.shift()).all(axis=1).sum())
    shuffled = [neighbours(tumors.sample(frac=1, random_state=seed).sort_values(["center", "label"], kind="stable"))
                for seed in range(10)]
    assert len(tumors) == 1867 and neighbours(tumors) == 728 and max(shuffled) < 15


def test_images_of_btxrd_that_differ_in_the_view_alone_are_one_group(tmp_path):
    rows = [("1", 12, "M", 1, 0, 1, 1, 0), ("2", 12, "M", 1, 0, 1, 0, 1), ("3", 13, "M", 1, 0, 1, 1, 0),
            ("4", 12, "M", 1, 0, 1, 1, 0), ("5", "", "", 0, 0, 0, "", ""), ("6", "", "", 0, 0, 0, "", "")]
    table = pd.DataFrame(rows, columns=["image_id", "age", "gender", "tumor", "benign", "malignant", "frontal",
                                        "lateral"]).assign(center=1)
    table.to_csv(tmp_path / "dataset.csv", index=False)
    read = read_source("btxrd", tmp_path, files=False)
    assert read.rows["group"].tolist() == [f"neighbours of {first}" for first in (1, 1, 3, 4)] + ["", ""]
    assert any(note.startswith("no patient ids, but 1 images of dataset.csv equal") for note in read.notes)
