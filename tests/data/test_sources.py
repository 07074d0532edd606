"""What the sources promise: each set's own layout read as it is, and a clear word where it is not as it should be."""

import json
import os
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from busfast.data.sources import SOURCES, btxrd, guess_source, read_source
from busfast.data.sources.masks import draw_outline, image_size, join_masks
from busfast.data.sources.pairs import pair_masks
from busfast.errors import UserError

DATA = Path(os.environ.get("BUSFAST_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
originals = pytest.mark.skipif(not (DATA / "layouts").is_dir(),
                               reason=f"no original layouts: {DATA / 'layouts'} (BUSFAST_TEST_DATA) is not there")


def image(path, size=(12, 9), mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def mask(path, box, size=(12, 9)):
    path.parent.mkdir(parents=True, exist_ok=True)
    made = Image.new("1", size)
    made.paste(1, box)
    made.save(path)
    return path


def make_busi(root):
    for label in ("normal", "benign", "malignant"):
        for number in (1, 2):
            image(root / label / f"{label} ({number}).png")
            mask(root / label / f"{label} ({number})_mask.png", (0, 0, 3, 3) if label != "normal" else (0, 0, 0, 0))
    mask(root / "benign" / "benign (2)_mask_1.png", (6, 4, 9, 8))
    (root / "benign" / "Thumbs.db").touch()
    image(root / "__MACOSX" / "benign" / "._benign (1).png")
    return root


def make_bus_bra(root):
    rows = [("bus_0001-l", 1, "malignant"), ("bus_0001-r", 1, "malignant"), ("bus_0002-s", 2, "benign")]
    for name, _, _ in rows:
        image(root / "Images" / f"{name}.png")
        mask(root / "Masks" / f"{name.replace('bus', 'mask')}.png", (0, 0, 4, 4))
    lines = [f'{name},{case},"cyst, simple",{label},4,GE Logiq 7 @10-14MHz,12,9,left,"[1,2,3,4]"'
             for name, case, label in rows]
    (root / "bus_data.csv").write_text(
        "\n".join(["ID,Case,Histology,Pathology,BIRADS,Device,Width,Height,Side,BBOX", *lines]) + "\n")
    return root


def make_bus_uclm(root):
    rows = [("ALWI_000.png", "Benign"), ("ALWI_001.png", "Normal"), ("AL_WI_002.png", "Malignant")]
    for name, _ in rows:
        image(root / "images" / name)
        image(root / "masks" / name, mode="RGB")
    lines = [f"{name};12x9;{label};No;Yes;No" for name, label in rows]
    (root / "INFO.csv").write_text("\n".join(["Image;Resolution;Label;Doppler;Marks;Combined", *lines]) + "\n",
                                   encoding="utf-8-sig")
    return root


def make_breast(root, rows=None):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.append(["CaseID", "Image_filename", "Mask_tumor_filename", "Mask_other_filename", "Age", "BIRADS",
                        "Diagnosis", "Classification"])
    rows = rows or [
        (1, "case001.png", "case001_tumor.png", None, 57, 2, "not applicable", "benign"),
        (2, "case002.png", "case002_tumor1.png&case002_tumor2.png", "case002_other1.png", "not available", "4b",
         "Cyst", "malignant"),
        (45, "case045.png", None, None, 32, 1, "not applicable", "normal")]
    for row in rows:
        book.active.append(row)
        image(root / "images_and_masks" / row[1])
        for name in f"{row[2] or ''}&{row[3] or ''}".split("&"):
            if name:
                mask(root / "images_and_masks" / name, (1, 1, 5, 5))
    book.save(root / "BrEaST-Lesions-USG-clinical-data-Dec-15-2023.xlsx")
    return root


def make_btxrd(root, flags=(("0", "0", "0"), ("1", "1", "0"), ("1", "0", "1"))):
    lines = []
    for number, (tumor, benign, malignant) in enumerate(flags, start=1):
        image(root / "images" / f"IMG00000{number}.{'jpg' if number == 2 else 'jpeg'}")
        lines.append(f"IMG00000{number}.jpeg,{number}.0,{tumor},{benign},{malignant},F")
    (root / "dataset.csv").write_text("\n".join(["image_id,center,tumor,benign,malignant,gender", *lines]) + "\n")
    (root / "Annotations").mkdir()
    annotate(root / "Annotations" / "IMG000002.json", [("rectangle", [[0, 0], [11, 8]]),
                                                       ("polygon", [[2, 2], [6, 2], [6, 6], [2, 6]])])
    annotate(root / "Annotations" / "IMG000003.json", [("rectangle", [[8, 6], [4, 3]])])
    return root


def annotate(path, shapes, size=(12, 9)):
    path.write_text(json.dumps({"imageWidth": size[0], "imageHeight": size[1], "shapes": [
        {"shape_type": kind, "points": points, "label": "x"} for kind, points in shapes]}))
    return path


def make_folder(root):
    for name in ("Benign/a.png", "Benign/b.JPG", "malignant/c.png", "malignant/deep/er/d.bmp"):
        image(root / name)
    (root / "Benign" / "notes.txt").write_text("x")
    (root / ".DS_Store").touch()
    return root


def make_csv(root, text="file,dx,pid\na.png,benign,1\nb.png,Malignant,2\n", encoding="utf-8"):
    for name in ("a.png", "b.png", "sub/c.png"):
        image(root / name)
    (root / "labels.csv").write_bytes(text.encode(encoding))
    return root


MAKERS = {"busi": make_busi, "bus_bra": make_bus_bra, "bus_uclm": make_bus_uclm, "breast": make_breast,
          "btxrd": make_btxrd, "folder": make_folder, "csv": make_csv}
COLUMNS = {"image": "file", "label": "dx", "patient": "pid"}


def refusal(name, path, **options):
    with pytest.raises(UserError) as caught:
        read_source(name, path, **options)
    return str(caught.value)


def rows(table, *columns):
    return table[list(columns)].to_numpy().tolist()


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
    assert read_source(name, tmp_path).attrs["root"] == str(root)


def test_nothing_is_guessed_of_a_folder_without_images(tmp_path):
    assert guess_source(tmp_path) == guess_source(tmp_path / "none") == ""


def test_masks_of_several_lesions_of_busi_are_given_together(tmp_path):
    table = read_source("busi", make_busi(tmp_path))
    assert rows(table, "image", "label", "mask")[:2] == [
        ["benign/benign (1).png", "benign", "benign/benign (1)_mask.png"],
        ["benign/benign (2).png", "benign", ("benign/benign (2)_mask.png", "benign/benign (2)_mask_1.png")]]
    assert table["label"].value_counts().to_dict() == {"normal": 2, "benign": 2, "malignant": 2}
    assert set(table["mask"][table["label"] == "normal"]) == {""}  # they are black
    assert set(table["center"]) == {"BUSI"} and set(table["patient"]) == {""}


def test_a_mask_of_busi_without_its_image_is_missing_data(tmp_path):
    make_busi(tmp_path)
    (tmp_path / "benign" / "benign (1).png").unlink()
    assert "1 masks have no image, e.g. 'benign/benign (1)_mask.png'" in refusal("busi", tmp_path)
    assert len(read_source("busi", tmp_path, partial=True)) == 5


def test_bus_bra_has_patients_devices_and_findings(tmp_path):
    table = read_source("bus_bra", make_bus_bra(tmp_path))
    assert table.iloc[0].to_dict() == {
        "image": "Images/bus_0001-l.png", "label": "malignant", "center": "BUS-BRA", "patient": "bus_bra_1",
        "device": "GE Logiq 7 @10-14MHz", "mask": "Masks/mask_0001-l.png", "birads": "4",
        "histology": "cyst, simple", "side": "left"}
    assert table["patient"].nunique() == 2


def test_bus_uclm_has_patients_and_no_masks_of_normal_images(tmp_path):
    table = read_source("bus_uclm", make_bus_uclm(tmp_path))
    assert rows(table, "image", "label", "patient", "mask", "marks") == [
        ["images/ALWI_000.png", "benign", "bus_uclm_ALWI", "masks/ALWI_000.png", "yes"],
        ["images/ALWI_001.png", "normal", "bus_uclm_ALWI", "", "yes"],
        ["images/AL_WI_002.png", "malignant", "bus_uclm_AL_WI", "masks/AL_WI_002.png", "yes"]]
    assert "Benign -> benign (1)" in table.attrs["notes"][0]


def test_breast_has_one_patient_a_row_and_masks_of_two_kinds(tmp_path):
    table = read_source("breast", make_breast(tmp_path))
    at = "images_and_masks/"
    assert rows(table, "image", "patient", "mask", "mask_other", "age", "birads", "histology") == [
        [f"{at}case001.png", "breast_1", f"{at}case001_tumor.png", "", "57", "2", ""],
        [f"{at}case002.png", "breast_2", (f"{at}case002_tumor1.png", f"{at}case002_tumor2.png"),
         f"{at}case002_other1.png", "", "4b", "Cyst"],
        [f"{at}case045.png", "breast_45", "", "", "32", "1", ""]]
    assert table.attrs["masks"] == ["mask", "mask_other"]


def test_a_workbook_without_openpyxl_names_the_command_that_installs_it(tmp_path, monkeypatch):
    make_breast(tmp_path)
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    assert "pip install 'busfast[xlsx]'" in refusal("breast", tmp_path)


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
    assert "1 images have another suffix" in table.attrs["notes"][0]


def test_flags_of_btxrd_that_contradict_each_other_are_refused_by_row(tmp_path):
    make_btxrd(tmp_path, [("0", "0", "0"), ("1", "1", "1"), ("0", "0", "0")])
    assert "dataset.csv, row 3, columns tumor, benign, malignant: 1, 1, 1 contradict" in refusal("btxrd", tmp_path)


def test_the_table_of_a_set_can_be_read_where_its_images_are_not(tmp_path):
    make_btxrd(tmp_path)
    for path in tmp_path.glob("images/*"):
        path.unlink()
    table = read_source("btxrd", tmp_path, files=False)
    assert rows(table, "image", "label", "center")[1] == ["images/IMG000002.jpeg", "benign", "2"]
    assert table.attrs["root"] == str(tmp_path)


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
    assert gone not in table["image"].tolist() and gone not in table["mask"].tolist()
    assert any("are left out" in note for note in table.attrs["notes"])


def test_a_wrong_set_is_told_which_one_it_looks_like(tmp_path):
    make_bus_bra(tmp_path)
    assert refusal("busi", tmp_path) == (
        f"{tmp_path} does not look like busi (class folders with NAME.png and NAME_mask.png); it looks like bus_bra "
        "(bus_data.csv, Images and Masks). Use --source=bus_bra.")
    assert "Use --source=bus_bra." in refusal("folder", tmp_path)  # its folders are no classes


def test_an_unknown_source_and_a_folder_that_is_not_there_are_refused(tmp_path):
    assert "Did you mean 'busi'?" in refusal("bussi", tmp_path)
    assert f"There is no folder '{tmp_path / 'none'}'" in refusal("busi", tmp_path / "none")
    assert "does not look like busi" in refusal("busi", tmp_path)


def test_a_set_whose_table_is_missing_is_not_taken_for_class_folders(tmp_path):
    (make_bus_bra(tmp_path) / "bus_data.csv").unlink()
    message = refusal("bus_bra", tmp_path)
    assert "download the set again" in message and "looks like folder" not in message
    assert guess_source(tmp_path) == ""
    assert "the folder 'Images' is not called like a class" in refusal("folder", tmp_path)


def test_a_set_that_is_there_twice_is_not_chosen_from(tmp_path):
    for name in ("a", "b"):
        make_busi(tmp_path / name)
    assert f"2 times: {tmp_path / 'a'}, {tmp_path / 'b'}" in refusal("busi", tmp_path)


def test_class_folders_of_any_name_are_labels(tmp_path):
    make_folder(tmp_path)
    image(tmp_path / "cyst" / "e.png")
    table = read_source("folder", tmp_path)
    assert rows(table, "image", "label") == [
        ["Benign/a.png", "benign"], ["Benign/b.JPG", "benign"], ["cyst/e.png", "cyst"],
        ["malignant/c.png", "malignant"], ["malignant/deep/er/d.bmp", "malignant"]]
    notes = "; ".join(table.attrs["notes"])
    assert "Benign -> benign (2)" in notes and "kept: cyst (1)" in notes and "classes: [benign, cyst" in notes
    assert "1 files are no images, and are left out: .txt (1)" in notes


def test_folders_of_a_split_above_the_classes_are_kept_as_a_column(tmp_path):
    for part, label in (("train", "benign"), ("Validation", "benign"), ("test", "malignant")):
        image(tmp_path / part / label / f"{part}.png")
    table = read_source("folder", tmp_path)
    assert rows(table, "label", "original_split") == [["benign", "valid"], ["malignant", "test"], ["benign", "train"]]
    assert "makes its own split" in "; ".join(table.attrs["notes"])


def test_images_in_no_class_folder_are_left_out_and_said(tmp_path):
    for name in ("a.png", "train/b.png", "train/benign/c.png"):
        image(tmp_path / name)
    table = read_source("folder", tmp_path)
    assert table["image"].tolist() == ["train/benign/c.png"]
    assert "2 images in no class folder are left out, e.g. 'a.png'" in table.attrs["notes"]


def test_masks_beside_the_images_are_not_taken_for_images(tmp_path):
    make_folder(tmp_path)
    image(tmp_path / "Benign" / "a_mask.png")
    image(tmp_path / "Benign" / "gone_mask.png")
    table = read_source("folder", tmp_path)
    assert any("1 files are called like masks of images that are not there" in note for note in table.attrs["notes"])
    assert rows(table, "image", "mask")[0] == ["Benign/a.png", "Benign/a_mask.png"]
    assert len(table) == 4


def test_center_folders_are_not_guessed(tmp_path):
    for center in ("Hospital A", "Hospital B"):
        image(tmp_path / center / "benign" / "a.png")
    assert "If 'Hospital A' is a center" in refusal("folder", tmp_path)


def test_a_folder_without_images_has_0_images(tmp_path):
    (tmp_path / "benign").mkdir()
    (tmp_path / "benign" / "a.txt").touch()
    message = refusal("folder", tmp_path)
    assert "has 0 images" in message and ".txt (1)" in message


def test_links_that_lead_out_of_a_source_are_refused_by_name_and_target(tmp_path):
    outside = image(tmp_path / "outside" / "z.png")
    root = make_folder(tmp_path / "set")
    (root / "Benign" / "z.png").symlink_to(outside)
    message = refusal("folder", root)
    assert str(root / "Benign" / "z.png") in message and str(outside) in message
    (root / "Benign" / "z.png").unlink()
    (root / "more").symlink_to(outside.parent)
    assert "symbolic link to the folder" in refusal("folder", root)
    (root / "more").unlink()
    (root / "linked.png").symlink_to(root / "none.png")
    assert "symbolic link to nothing" in refusal("folder", root)


def test_links_that_lead_out_of_a_set_with_a_table_are_refused(tmp_path):
    root = make_bus_bra(tmp_path / "set")
    target = tmp_path / "elsewhere.png"
    (root / "Images" / "bus_0001-l.png").rename(target)
    (root / "Images" / "bus_0001-l.png").symlink_to(target)
    assert f"to {target}" in refusal("bus_bra", root)


def test_a_table_cannot_name_files_outside_its_set(tmp_path):
    root = make_bus_bra(tmp_path / "set")
    table = root / "bus_data.csv"
    table.write_text(table.read_text().replace("bus_0002-s", "../../bus_0002-s"))
    assert "row 4, column image: 'Images/../../bus_0002-s.png' leads out" in refusal("bus_bra", root)
    assert "leads out" in refusal("bus_bra", root, files=False)


def test_an_empty_label_in_a_set_is_refused_by_row(tmp_path):
    root = make_bus_bra(tmp_path)
    table = root / "bus_data.csv"
    table.write_text(table.read_text().replace("benign", ""))
    assert "bus_data.csv, row 4: the label is empty" in refusal("bus_bra", root)


def test_an_image_that_a_table_names_twice_is_refused_with_both_rows(tmp_path):
    root = make_bus_bra(tmp_path)
    table = root / "bus_data.csv"
    table.write_text(table.read_text().replace("bus_0001-r", "bus_0001-l"))
    assert "row 3: the image 'Images/bus_0001-l.png' is already in row 2" in refusal("bus_bra", root)


def test_columns_of_a_csv_are_named_by_the_user(tmp_path):
    table = read_source("csv", make_csv(tmp_path, "file,dx,pid,age\na.png,benign,007,51\n"), columns=COLUMNS)
    assert table.iloc[0].to_dict() == {"image": "a.png", "label": "benign", "center": "", "patient": "007",
                                       "device": "", "mask": "", "age": "51"}
    assert "columns read: file as image, dx as label, pid as patient" in table.attrs["notes"]
    assert "other columns, kept: age" in table.attrs["notes"]


def test_columns_of_a_csv_that_have_the_names_are_found_whatever_their_capitals(tmp_path):
    table = read_source("csv", make_csv(tmp_path, "Label,IMAGE\nbenign,a.png\n"))
    assert rows(table, "image", "label") == [["a.png", "benign"]]


def test_a_column_that_is_in_the_way_of_one_the_user_names_keeps_another_name(tmp_path):
    table = read_source("csv", make_csv(tmp_path, "image,label,dx\na.png,7,benign\n"), columns={"label": "dx"})
    assert rows(table, "label", "original_label") == [["benign", "7"]]


@pytest.mark.parametrize(("columns", "said"), [
    ({"image": "fle"}, "no column 'fle' (asked for as image). Did you mean 'file'?"),
    ({"imagge": "file"}, "Unknown column of busfast 'imagge'. Did you mean 'image'?"),
    ({"image": "file"}, "no column is called 'label' (found: file, dx, pid). Say which one it is: --columns=label=COL"),
    ({"image": "file", "label": "file"}, "gives one column of")])
def test_a_wrong_column_is_refused_with_the_nearest_name(columns, said, tmp_path):
    assert said in refusal("csv", make_csv(tmp_path), columns=columns)


@pytest.mark.parametrize(("text", "said"), [
    ("image,label\n", "has a header but no rows"),
    ("image,label\na.png,\n", "labels.csv, row 2, column label: the cell is empty"),
    ("image,Label\n,benign\n", "labels.csv, row 2, column image: the cell is empty"),
    ("image,label\na.png,benign\n./a.png,benign\n", "row 3: the image 'a.png' is already in row 2"),
    ("image,label\n../a.png,benign\n", "row 2, column image: '../a.png' leads out"),
    ("image,label\nC:\\scans\\a.png,benign\n", "is an absolute path outside"),
    ("image,label\n/etc/a.png,benign\n", "'/etc/a.png' is an absolute path outside"),
    ("image,label\nlabels.csv,benign\n", "is neither an image")])
def test_a_csv_that_cannot_be_used_is_refused_by_row_and_column(text, said, tmp_path):
    assert said in refusal("csv", make_csv(tmp_path, text))


def test_a_csv_of_a_windows_spreadsheet_is_read(tmp_path):
    text = "image;label;Größe\r\nsub\\c.png;benign;1\r\na.png;malignant;2\r\n"
    table = read_source("csv", make_csv(tmp_path, text, "latin-1"))
    assert rows(table, "image", "label", "Größe") == [["sub/c.png", "benign", "1"], ["a.png", "malignant", "2"]]
    notes = "; ".join(table.attrs["notes"])
    assert "semicolons" in notes and "Latin-1" in notes and "1 paths are written with \\" in notes


def test_an_absolute_path_inside_the_folder_is_made_relative(tmp_path):
    table = read_source("csv", make_csv(tmp_path, f"image,label\n{tmp_path / 'sub' / 'c.png'},benign\n"))
    assert table["image"].tolist() == ["sub/c.png"]


def test_a_csv_is_named_itself_or_by_a_folder_with_exactly_one(tmp_path):
    make_csv(tmp_path, "image,label\na.png,benign\n")
    assert len(read_source("csv", tmp_path / "labels.csv")) == 1
    (tmp_path / "more.csv").write_text("image,label\na.png,benign\n")
    assert "exactly one CSV file (found: labels.csv, more.csv)" in refusal("csv", tmp_path)


def test_a_workbook_of_the_users_own_is_read(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    make_csv(tmp_path)
    (tmp_path / "labels.csv").unlink()
    book = openpyxl.Workbook()
    for row in (["image", "label", "patient"], ["a.png", "benign", 17.0], [None, None, None], ["b.png", "normal", "x"]):
        book.active.append(row)
    book.save(tmp_path / "labels.xlsx")
    assert rows(read_source("csv", tmp_path), "image", "patient") == [["a.png", "17"], ["b.png", "x"]]


def test_every_source_of_the_users_own_has_no_published_counts():
    assert [name for name, source in SOURCES.items() if not source.published] == ["folder", "csv", "dicom"]


def test_a_mask_of_a_mask_is_no_image():
    assert pair_masks(["a.png", "a_mask.png", "a_mask_1.png", "b_mask.png"]) == (
        {"a.png": ("a_mask.png", "a_mask_1.png")}, ["b_mask.png"])


def test_joined_masks_are_white_where_any_of_them_is_not_black(tmp_path):
    green = Image.new("RGBA", (12, 9))
    green.paste((0, 255, 0, 255), (6, 4, 9, 8))
    green.save(tmp_path / "b.png")
    join_masks([mask(tmp_path / "a.png", (0, 0, 3, 3)), tmp_path / "b.png"], tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as joined:
        assert joined.mode == "L"
        expected = np.zeros((9, 12), dtype=np.uint8)
        expected[0:3, 0:3] = expected[4:8, 6:9] = 255
        assert np.array_equal(np.asarray(joined), expected)


def test_masks_of_different_sizes_are_not_joined(tmp_path):
    masks = [mask(tmp_path / "a.png", (0, 0, 3, 3)), mask(tmp_path / "b.png", (0, 0, 3, 3), size=(9, 12))]
    with pytest.raises(UserError, match="one size"):
        join_masks(masks, tmp_path / "out.png")


@pytest.mark.parametrize(("shapes", "box"), [
    ([("polygon", [[2, 2], [6, 2], [6, 6], [2, 6]])], (2, 2, 6, 6)),
    ([("rectangle", [[0, 0], [11, 8]]), ("polygon", [[2, 2], [6, 2], [6, 6], [2, 6]])], (2, 2, 6, 6)),
    ([("rectangle", [[8, 6], [4, 3]])], (4, 3, 8, 6))])
def test_polygons_are_drawn_and_rectangles_only_where_there_is_none(shapes, box, tmp_path):
    draw_outline(annotate(tmp_path / "a.json", shapes), tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as drawn:
        pixels = np.asarray(drawn)
    left, top, right, bottom = box  # corners are part of the shape
    assert pixels[top:bottom + 1, left:right + 1].min() == 255
    assert (pixels > 0).sum() == (right - left + 1) * (bottom - top + 1)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"shapes": []}', "[" * 100_000,
                                     '{"imageWidth": 60000, "imageHeight": 60000, "shapes": []}',
                                     '{"imageWidth": 9, "imageHeight": 9, "shapes": [{"shape_type": "polygon", '
                                     '"points": [[NaN, 1], [2, 2], [3, 3]]}]}'])
def test_an_annotation_that_is_none_is_refused(content, tmp_path):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UserError, match=r"a\.json"):
        draw_outline(tmp_path / "a.json", tmp_path / "out.png")


def test_an_image_of_too_many_pixels_is_refused_by_its_header(tmp_path):
    (tmp_path / "huge.png").write_bytes(huge_png())
    with pytest.raises(UserError, match="more pixels than the limit"):
        image_size(tmp_path / "huge.png")


def huge_png(side=60_000):
    """A PNG of a header and nothing to decode."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)), (b"IDAT", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(body)) + kind + body +
                                            struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks)


@originals
@pytest.mark.parametrize("name", ["busi", "bus_bra", "bus_uclm", "breast"])
def test_every_image_and_mask_of_the_original_layouts_is_accounted_for(name):
    if name == "breast":
        pytest.importorskip("openpyxl")
    table = read_source(name, DATA / "layouts" / name)
    named = {path for column in ("image", *table.attrs["masks"]) for cell in table[column]
             for path in (cell if isinstance(cell, tuple) else [cell]) if path}
    there = {path.relative_to(table.attrs["root"]).as_posix() for path in Path(table.attrs["root"]).rglob("*.png")}
    normal = {"busi": "normal/", "bus_uclm": "masks/"}.get(name, "none")
    assert {path for path in there - named if not path.startswith(normal)} == set()
    assert all("mask" in path for path in there - named)  # the black ones of normal images
    assert guess_source(DATA / "layouts" / name) == name
    assert set(table["label"]) <= {"normal", "benign", "malignant"}


@originals
def test_the_two_lesions_of_an_original_of_busi_have_two_masks():
    table = read_source("busi", DATA / "layouts" / "busi").set_index("image")
    assert table.loc["benign/benign (100).png", "mask"] == ("benign/benign (100)_mask.png",
                                                            "benign/benign (100)_mask_1.png")


@pytest.mark.skipif(not (DATA / "btxrd").is_dir(),
                    reason=f"no BTXRD: {DATA / 'btxrd'} (BUSFAST_TEST_DATA) is not there")
def test_the_whole_table_of_btxrd_has_the_published_counts():
    table = read_source("btxrd", DATA / "btxrd", files=False)
    counts = table.groupby(["center", "label"]).size().unstack()[["normal", "benign", "malignant"]]
    assert counts.to_numpy().tolist() == [[1593, 1110, 235], [259, 214, 76], [27, 201, 31]]
    assert table["label"].value_counts().to_dict() == SOURCES["btxrd"].published
    assert len(table.columns) == 6 + 36 + 1  # "center" is in both; group is added


@pytest.mark.skipif(not (DATA / "btxrd").is_dir(),
                    reason=f"no BTXRD: {DATA / 'btxrd'} (BUSFAST_TEST_DATA) is not there")
def test_neighbours_of_btxrd_agree_far_more_often_than_chance_would_have_it():
    table = read_source("btxrd", DATA / "btxrd", files=False)
    tumors = table[table["tumor"] == "1"].drop(columns=["image", "image_id", "mask", "group", *btxrd.VIEWS])
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
    assert read["group"].tolist() == [f"neighbours of {first}" for first in (1, 1, 3, 4)] + ["", ""]
    assert any(note.startswith("there are no patient ids, but 1 images agree") for note in read.attrs["notes"])
