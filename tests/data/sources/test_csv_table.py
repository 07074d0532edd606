"""A user's own table is read as it comes: what is left out, joined or found elsewhere is said, and what may mean two
things is asked about.

Covers busfast/data/sources/columns.py and busfast/data/sources/own_sheet.py, too; see also test_folder.py.
"""

import os

import pytest

from busfast.cli import main
from busfast.data.open_data import read_data
from busfast.data.prepare import prepare
from busfast.data.sources import read_source
from busfast.data.table import read_table
from busfast.errors import UserError
from data.layouts import image, refusal, rows


def make(root, text, *names):
    for name in names:
        image(root / name)
    (root / "t.csv").parent.mkdir(parents=True, exist_ok=True)
    (root / "t.csv").write_text(text, encoding="utf-8")
    return root / "t.csv"


def said(table):
    return "; ".join(table.notes)


@pytest.mark.parametrize(("text", "expected", "note"), [
    ("a.png,benign\nb.png,malignant\n", [["a.png", "benign"], ["b.png", "malignant"]], "called image, label"),
    ("1,b.png\n0,a.png\n", [["b.png", "1"], ["a.png", "0"]], "called label, image"),
    (",image,label\n0,a.png,benign\n1,b.png,malignant\n", [["a.png", "benign"], ["b.png", "malignant"]], "left out: 1"),
    ("Unnamed: 0,image,label\n7,a.png,benign\n3,b.png,x\n", [["a.png", "benign"], ["b.png", "x"]], "out: Unnamed: 0"),
    (",label\na.png,benign\nb.png,x\n", [["a.png", "benign"], ["b.png", "x"]], "called 'image'"),
    ("image,label\na.png,benign\n\n,\nb.png,x\n,\n\n", [["a.png", "benign"], ["b.png", "x"]], "2 blank rows left out"),
    ("image,label,,\na.png,benign,,\nb.png,x,,,,\n", [["a.png", "benign"], ["b.png", "x"]], ""),
    ("image,label,age\na.png,benign,4\nb.png,x,5\n,,9\n,x,\n", [["a.png", "benign"], ["b.png", "x"]],
     "2 rows at the end without an image left out, such as row 4: 9"),
    ("image,label\na.png,1.0\nb.png,0.0\n", [["a.png", "1"], ["b.png", "0"]], "label: numbers such as 0.0 are read"),
])
def test_what_spreadsheets_and_pandas_leave_in_a_table_is_read_and_said(text, expected, note, tmp_path):
    table = read_source("csv", make(tmp_path, text, "a.png", "b.png"))
    assert rows(table, "image", "label") == expected
    assert note in said(table)


@pytest.mark.parametrize(("text", "message"), [
    ("a.png,x,7\nb.png,y,8\n", "has no row of column names: its first row is a.png, x, 7."),
    ("001,x\n002,y\n", "no row of column names: image=1,label=2"),
    ("image,label\na.png,x\nb.png,\n", "row 3, column label: the cell is empty, as in 1 row of 2."),
    ("image,label\na.png,nan\nb.png,x\n", "row 2, column label: the cell is empty (nan)"),
    ("image,label\n,x\na.png,x\n", "row 2, column image: the cell is empty"),
    ("image,label\na.png,x,7\n", "row 2: 3 cells, but the header has 2 columns"),
    ("image,label\na.png,x\na.png,y\n", "rows 2 and 3: they name the same image, 'a.png', with the label 'x' and 'y'"),
    ("image,label,patient\na.png,x,1\na.png,x,2\n", "with the patient '1' and '2'"),
    ("image,label\na.png,x\nz.png,x\n", "name the folder that holds the images (prepare --images=FOLDER)"),
])
def test_what_may_mean_two_things_is_asked_about(text, message, tmp_path):
    found = refusal("csv", make(tmp_path, text, "a.png", "b.png"))
    assert message in found and "ownload" not in found


def test_columns_without_names_are_given_by_number(tmp_path):
    file = make(tmp_path, "p1,a.png,x\np2,b.png,y\n", "a.png", "b.png")
    table = read_source("csv", file, columns={"image": "2", "label": "3", "patient": "1"})
    assert rows(table, "image", "label", "patient") == [["a.png", "x", "p1"], ["b.png", "y", "p2"]]


def test_rows_of_one_image_that_agree_are_read_once_with_the_first_box(tmp_path):
    text = "image,x,y,label\na.png,1,2,Nodule\na.png,3,4,nodule\n./a.png,5,6,Nodule\nb.png,,,none\n"
    table = read_source("csv", make(tmp_path, text, "a.png", "b.png"))
    assert rows(table, "image", "label", "x") == [["a.png", "Nodule", "1"], ["b.png", "none", ""]]
    assert ("2 rows of images that earlier rows name, with the same label: each image is read once, with its first x, y"
            in table.notes)


def test_masks_of_one_image_in_several_rows_are_joined(tmp_path):
    text = "image,mask,label\na.png,m/1.png,x\na.png,m/2.png,x\na.png,m/1.png,x\n"
    table = read_source("csv", make(tmp_path, text, "a.png", "m/1.png", "m/2.png"))
    assert table.rows["mask"].tolist() == [("m/1.png", "m/2.png")]


def test_labels_of_one_image_in_several_rows_are_joined_where_there_may_be_several(tmp_path):
    file = make(tmp_path, "image,label\na.png,x\na.png,y\na.png,x\nb.png,\n", "a.png", "b.png")
    assert rows(read_source("csv", file, label_delim="|"), "image", "label") == [["a.png", "x|y"], ["b.png", ""]]


def test_columns_of_0_and_1_are_the_classes_that_the_user_names(tmp_path):
    file = make(tmp_path, "image,sex,MEL,NV,label\na.png,1,1.0,0.0,7\nb.png,0,0.0,1.0,8\n", "a.png", "b.png")
    table = read_source("csv", file, columns={"label": "MEL+NV"})
    assert rows(table, "label", "original_label", "MEL") == [["MEL", "7", "1.0"], ["NV", "8", "0.0"]]
    assert "no column 'NW' (given as label). Did you mean 'NV'?" in refusal("csv", file, columns={"label": "MEL+NW"})
    make(tmp_path, "image,sex,MEL,NV\na.png,1,True,false\nb.png,1,0,1\n")
    assert "of the columns sex, MEL, NV, which hold 0 and 1, sex and MEL are 1. Name those that are classes: " \
        "--columns=label=sex+MEL+NV" in refusal("csv", file)
    assert rows(read_source("csv", file, columns={"label": "MEL+NV"}), "label") == [["MEL"], ["NV"]]
    make(tmp_path, "image,MEL,NV\na.png,1,0\nb.png,-1,1\n")
    assert "row 3, column MEL: '-1' is neither 0 nor 1" in refusal("csv", file, columns={"label": "MEL+NV"})


@pytest.mark.parametrize(("title", "values", "expected", "note"), [
    ("is_valid", ("1.0", "0.0"), ["valid", "train"], "which --split=given takes"),
    ("split", ("Training", "test"), ["train", "test"], "which --split=given takes"),
    ("fold", ("0", "1"), None, "the column fold holds 0, 1, not train, valid and test: kept as original_fold"),
    ("split", ("A", "B"), None, "kept as split_kept, and no split uses it"),
])
def test_a_column_of_parts_is_taken_or_said_not_to_be_one(title, values, expected, note, tmp_path):
    text = f"image,label,{title}\na.png,x,{values[0]}\nb.png,y,{values[1]}\n"
    table = read_source("csv", make(tmp_path, text, "a.png", "b.png"))
    assert note in said(table)
    assert (table.rows["original_split"].tolist() if "original_split" in table.rows else None) == expected
    if expected is None:
        assert "it holds" in refusal("csv", tmp_path / "t.csv", columns={"original_split": title})


def test_a_separator_in_labels_is_said_by_prepare(tmp_path):
    text = "image,label\na.png,Mass\nb.png,Mass|Nodule\n"
    assert "1 of 2 labels hold '|', such as 'Mass|Nodule': if an image has several labels, audit, split and train " \
        "with --label_delim='|'" in said(read_source("csv", make(tmp_path, text, "a.png", "b.png")))
    assert "hold" not in said(read_source("csv", tmp_path, label_delim="|"))


def test_patients_in_several_writings_are_said_and_numbers_of_pandas_are_read_alike(tmp_path):
    names = [f"{number}.png" for number in range(4)]
    def patients(*ids):
        text = "image,label,patient\n" + "".join(f"{name},x,{one}\n" for name, one in zip(names, ids, strict=True))
        table = read_source("csv", make(tmp_path, text, *names))
        return table.rows["patient"].tolist(), said(table)
    assert patients("25.0", "25", "7.0", "nan") == (
        ["25", "25", "7", ""], "column patient: 1 cell such as nan read as empty; column patient: numbers such as 25.0 "
        "are read without .0")
    ids, note = patients("007", "7", "P12", "p 12")
    assert ids == ["007", "7", "P12", "p 12"]
    assert note == "2 patients may be written in several ways, and are read as different ones (007 and 7; P12 and " \
        "p 12): audit lists them"


@pytest.mark.parametrize(("text", "names", "found"), [
    ("image,label\nimg_1.jpg,x\n", ["IMG_1.JPG"], ["IMG_1.JPG"]),
    ("image,label\nGr\u00f6\u00dfe 1.png,x\n", ["Gro\u0308\u00dfe 1.png"], ["Gro\u0308\u00dfe 1.png"]),
    ("image,label\nGro\u0308\u00dfe,x\n", ["a/Gr\u00f6\u00dfe.png"], ["a/Gr\u00f6\u00dfe.png"]),
    ("image,label\nset/train/1.png,x\nset/train/2.png,y\n", ["train/1.png", "train/2.png"],
     ["train/1.png", "train/2.png"]),
    ("id,label\n1.2.3,x\n1.2.4,y\n", ["part 1/1.2.3.png", "part 2/1.2.4.jpg"],
     ["part 1/1.2.3.png", "part 2/1.2.4.jpg"]),
    ("id,label\n1,x\n", ["images/1.png", "masks/1.png"], ["images/1.png"]),
    ("image,label\n/gone/study/1.png,x\n", ["1.png"], ["1.png"]),
])
def test_an_image_is_found_where_its_name_is_written_otherwise_and_it_is_said(text, names, found, tmp_path):
    file = make(tmp_path, text, *names)
    for table in (read_source("csv", file), read_data(file), read_data(file, files=False)):
        assert table.rows["image"].tolist() == found
        assert f"found by name, such as {found[0]} for '" in said(table)


def test_two_names_are_not_one_file(tmp_path):
    file = make(tmp_path, "image,label\nnorth/1.png,x\nsouth/1.png,x\n", "1.png")
    assert "row 3: 'south/1.png' and, in row 2, 'north/1.png' would both be the file '1.png'" in refusal("csv", file)
    make(tmp_path, "image,label\na/1.png,x\n1.png,x\n1,x\n", "a/1.png")
    (tmp_path / "1.png").unlink()
    assert read_source("csv", file).rows["image"].tolist() == ["a/1.png"]


@pytest.mark.parametrize("name", ["{0}/share/a.png", "../share/a.png", "..\\share\\a.png"])
def test_images_elsewhere_are_prepared_and_a_table_to_train_on_stays_in_its_folder(name, tmp_path):
    image(tmp_path / "share" / "a.png")
    file = make(tmp_path / "home", f"image,label\n{name.format(tmp_path)},x\n")
    table = prepare(["csv"], [file], tmp_path / "out")
    assert table.rows["image"].tolist() == ["csv/a.png"] and read_table(tmp_path / "out", ()).image_paths()[0].is_file()
    with pytest.raises(UserError, match=r"its images lie outside .*home.*prepare --source=csv --path=.*t.csv"):
        read_data(file)


def test_images_of_several_folders_elsewhere_do_not_forbid_the_folder_of_all(tmp_path):
    for name in ("one/a.png", "two/b.png"):
        image(tmp_path / name)
    file = make(tmp_path / "home", f"image,label\n{tmp_path}/one/a.png,x\n../two/b.png,y\n")
    assert prepare(["csv"], [file], tmp_path / "out").rows["image"].tolist() == ["csv/one/a.png", "csv/two/b.png"]
    with pytest.raises(UserError, match="which busfast does not change"):
        prepare(["csv"], [file], tmp_path / "two" / "out")


def test_a_folder_of_the_images_is_named_and_may_be_read_only(tmp_path):
    image(tmp_path / "share" / "sub" / "a.png")
    image(tmp_path / "home" / "b.png")
    make(tmp_path / "home", "image,label\na,x\n")
    os.chmod(tmp_path / "share", 0o555)
    flags = ["prepare", "--source=csv", f"--path={tmp_path / 'home'}", f"--out={tmp_path / 'out'}"]
    assert main([*flags, f"--images={tmp_path / 'share'}"]) == 0
    os.chmod(tmp_path / "share", 0o755)
    assert read_table(tmp_path / "out", ()).image_paths() == [tmp_path / "share" / "sub" / "a.png"]
    make(tmp_path / "home", f"image,label\na,x\n{tmp_path / 'home' / 'b.png'},x\n")
    both = read_source("csv", tmp_path / "home", images=str(tmp_path / "share"))
    assert both.root == tmp_path and both.rows["image"].tolist() == ["share/sub/a.png", "home/b.png"]


def test_a_folder_of_images_is_for_a_csv_file_and_exists(tmp_path, capsys):
    image(tmp_path / "a" / "x" / "1.png")
    for flags, message in (("folder", "--images is for --source=csv"), ("csv", "There is no folder 'nowhere'")):
        assert main(["prepare", f"--source={flags}", f"--path={tmp_path / 'a'}", "--images=nowhere",
                     f"--out={tmp_path / 'out'}"]) == 2
        assert message in capsys.readouterr().err
