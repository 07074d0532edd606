"""What sources of the user's own promise: class folders and tables of any names are read, and nothing is guessed.

Covers busfast/data/sources/csv_table.py, busfast/data/sources/common.py and busfast/data/sources/listing.py, too.
"""

import pytest

from busfast.data.sources import SOURCES, guess_source, read_source
from data.layouts import COLUMNS, image, make_bus_bra, make_csv, make_folder, refusal, rows


def test_class_folders_of_any_name_are_labels(tmp_path):
    make_folder(tmp_path)
    image(tmp_path / "cyst" / "e.png")
    table = read_source("folder", tmp_path)
    assert rows(table, "image", "label") == [
        ["Benign/a.png", "benign"], ["Benign/b.JPG", "benign"], ["cyst/e.png", "cyst"],
        ["malignant/c.png", "malignant"], ["malignant/deep/er/d.bmp", "malignant"]]
    notes = "; ".join(table.notes)
    assert "Benign -> benign (2)" in notes and "kept" not in notes
    named = "; ".join(read_source("folder", tmp_path, classes=("benign", "malignant")).notes)
    assert "kept: cyst (1)" in named and "classes: [benign, cyst" in named
    assert "1 files are not images, and are left out: .txt (1)" in notes


def test_folders_of_a_split_above_the_classes_are_kept_as_a_column(tmp_path):
    for part, label in (("train", "benign"), ("Validation", "benign"), ("test", "malignant")):
        image(tmp_path / part / label / f"{part}.png")
    table = read_source("folder", tmp_path)
    assert rows(table, "label", "original_split") == [["benign", "valid"], ["malignant", "test"], ["benign", "train"]]
    assert "--split=given takes" in "; ".join(table.notes)


def test_images_in_no_class_folder_are_left_out_and_said(tmp_path):
    for name in ("a.png", "train/b.png", "train/benign/c.png"):
        image(tmp_path / name)
    table = read_source("folder", tmp_path)
    assert table.rows["image"].tolist() == ["train/benign/c.png"]
    assert "2 images outside the class folders are left out, e.g. 'a.png'" in table.notes


def test_masks_beside_the_images_are_not_taken_for_images(tmp_path):
    make_folder(tmp_path)
    image(tmp_path / "Benign" / "a_mask.png")
    image(tmp_path / "Benign" / "gone_mask.png")
    table = read_source("folder", tmp_path)
    assert any("1 files are named like masks of missing images" in note for note in table.notes)
    assert rows(table, "image", "mask")[0] == ["Benign/a.png", "Benign/a_mask.png"]
    assert len(table) == 4


def test_center_folders_are_not_guessed(tmp_path):
    for center in ("Hospital A", "Hospital B"):
        image(tmp_path / center / "benign" / "a.png")
    assert "If these are centers, prepare the folder of each as its own source" in refusal("folder", tmp_path)


def test_a_folder_without_images_has_0_images(tmp_path):
    (tmp_path / "benign").mkdir()
    (tmp_path / "benign" / "a.txt").touch()
    message = refusal("folder", tmp_path)
    assert "has 0 images" in message and ".txt (1)" in message


def test_links_that_lead_out_of_a_distrusted_source_are_refused_by_name_and_target(tmp_path):
    outside = image(tmp_path / "outside" / "z.png")
    root = make_folder(tmp_path / "set")
    (root / "Benign" / "z.png").symlink_to(outside)
    message = refusal("folder", root, links="refuse")
    assert str(root / "Benign" / "z.png") in message and str(outside) in message
    (root / "Benign" / "z.png").unlink()
    (root / "more").symlink_to(outside.parent)
    assert f"{root / 'more'} is a symbolic link to {outside.parent}" in refusal("folder", root, links="refuse")


def test_links_are_followed_and_counted_and_those_to_nothing_are_named(tmp_path):
    store = [image(tmp_path / "store" / f"{name}.png") for name in "wxyz"]
    root = make_folder(tmp_path / "set")
    for path in store[:2]:
        (root / "Benign" / path.name).symlink_to(path)
    image(tmp_path / "cysts" / "deep" / "v.png")
    (root / "cyst").symlink_to(tmp_path / "cysts")
    (root / "Benign" / "gone.png").symlink_to(tmp_path / "gone.png")
    table = read_source("folder", root)
    assert rows(table, "image", "label")[2:4] == [["Benign/w.png", "benign"], ["Benign/x.png", "benign"]]
    assert ["cyst/deep/v.png", "cyst"] in rows(table, "image", "label") and len(table) == 7
    assert all(path.is_file() for path in table.image_paths())
    notes = "; ".join(table.notes)
    assert "symbolic links to 2 files and 1 folder elsewhere are followed" in notes
    assert f"1 link to nothing, left out: {root / 'Benign' / 'gone.png'}" in notes


def test_a_set_of_links_to_folders_alone_is_recognised(tmp_path):
    for label in ("benign", "cyst"):
        image(tmp_path / "store" / f"{label}s" / f"{label}.png")
        (tmp_path / "set").mkdir(exist_ok=True)
        (tmp_path / "set" / label).symlink_to(tmp_path / "store" / f"{label}s")
    assert guess_source(tmp_path / "set") == "folder"
    assert rows(read_source("folder", tmp_path / "set"), "image") == [["benign/benign.png"], ["cyst/cyst.png"]]


def test_links_in_circles_end_and_no_image_is_listed_twice(tmp_path):
    root = make_folder(tmp_path / "set")
    outside = image(tmp_path / "outside" / "a" / "z.png").parent
    for number in range(12):  # each of these leads to all others, which would be 12! ways
        (tmp_path / "outside" / str(number)).mkdir()
        (root / "malignant" / str(number)).symlink_to(tmp_path / "outside" / str(number))
        for other in range(12):
            (tmp_path / "outside" / str(number) / f"to{other}").symlink_to(tmp_path / "outside" / str(other))
    (outside / "up").symlink_to(root)
    (root / "Benign" / "out").symlink_to(outside)
    (root / "Benign" / "self").symlink_to("self")
    table = read_source("folder", root)
    assert table.rows["image"].tolist() == ["Benign/a.png", "Benign/b.JPG", "Benign/out/z.png", "malignant/c.png",
                                            "malignant/deep/er/d.bmp"]
    assert "links to folders that are listed anyway, not entered: " in "; ".join(table.notes)


def test_links_that_lead_out_of_a_set_with_a_table_are_followed_or_refused(tmp_path):
    root = make_bus_bra(tmp_path / "set")
    target = tmp_path / "elsewhere.png"
    (root / "Images" / "bus_0001-l.png").rename(target)
    (root / "Images" / "bus_0001-l.png").symlink_to(target)
    assert f"to {target}" in refusal("bus_bra", root, links="refuse")
    assert "symbolic links to 1 file elsewhere are followed" in "; ".join(read_source("bus_bra", root).notes)


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


def test_an_image_that_a_table_names_twice_is_read_once_or_refused_with_both_rows(tmp_path):
    root = make_bus_bra(tmp_path)
    table = root / "bus_data.csv"
    table.write_text(table.read_text().replace("bus_0001-r", "bus_0001-l"))
    read = read_source("bus_bra", root)
    assert len(read) == 2 and "1 row of images that earlier rows name" in "; ".join(read.notes)
    table.write_text(table.read_text().replace("bus_0002-s", "bus_0001-l"))
    assert "rows 2 and 4: they name the same image, 'Images/bus_0001-l.png'" in refusal("bus_bra", root)


def test_columns_of_a_csv_are_named_by_the_user(tmp_path):
    table = read_source("csv", make_csv(tmp_path, "file,dx,pid,age\na.png,benign,007,51\n"), columns=COLUMNS)
    assert table.rows.iloc[0].to_dict() == {"image": "a.png", "label": "benign", "center": "", "patient": "007",
                                       "device": "", "mask": "", "age": "51"}
    assert "columns read: file as image, dx as label, pid as patient" in table.notes
    assert "other columns, kept: age" in table.notes


def test_columns_of_a_csv_that_have_the_names_are_found_whatever_their_capitals(tmp_path):
    table = read_source("csv", make_csv(tmp_path, "Label,IMAGE\nbenign,a.png\n"))
    assert rows(table, "image", "label") == [["a.png", "benign"]]


def test_a_column_that_is_in_the_way_of_one_the_user_names_keeps_another_name(tmp_path):
    table = read_source("csv", make_csv(tmp_path, "image,label,dx\na.png,7,benign\n"), columns={"label": "dx"})
    assert rows(table, "label", "original_label") == [["benign", "7"]]


@pytest.mark.parametrize(("columns", "said"), [
    ({"image": "fle"}, "no column 'fle' (given as image). Did you mean 'file'?"),
    ({"imagge": "file"}, "Unknown column of busfast 'imagge'. Did you mean 'image'?"),
    ({"image": "file", "label": "file"}, "gives one column of")])
def test_a_wrong_column_is_refused_with_the_nearest_name(columns, said, tmp_path):
    assert said in refusal("csv", make_csv(tmp_path), columns=columns)


@pytest.mark.parametrize(("text", "said"), [
    ("image,label\n", "has a header but no rows"),
    ("image,label\na.png,\n", "labels.csv, row 2, column label: the cell is empty"),
    ("image,Label\n,benign\n", "labels.csv, row 2, column image: the cell is empty"),
    ("image,label\n../none.png,benign\n", "e.g. row 2: '../none.png'"),
    ("image,label\nC:\\scans\\z.png,benign\n", "e.g. row 2: 'C:/scans/z.png'"),
    ("image,label\n/etc/z.png,benign\n", "e.g. row 2: '/etc/z.png'. Correct the paths, name the folder"),
    ("image,label\nlabels.csv,benign\n", "is neither an image")])
def test_a_csv_that_cannot_be_used_is_refused_by_row_and_column(text, said, tmp_path):
    assert said in refusal("csv", make_csv(tmp_path, text))


def test_a_csv_of_a_windows_spreadsheet_is_read(tmp_path):
    text = "image;label;Größe\r\nsub\\c.png;benign;1\r\na.png;malignant;2\r\n"
    table = read_source("csv", make_csv(tmp_path, text, "latin-1"))
    assert rows(table, "image", "label", "Größe") == [["sub/c.png", "benign", "1"], ["a.png", "malignant", "2"]]
    notes = "; ".join(table.notes)
    assert "semicolons" in notes and "Latin-1" in notes and "1 paths are written with \\" in notes


def test_an_absolute_path_inside_the_folder_is_made_relative(tmp_path):
    table = read_source("csv", make_csv(tmp_path, f"image,label\n{tmp_path / 'sub' / 'c.png'},benign\n"))
    assert table.rows["image"].tolist() == ["sub/c.png"]


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
