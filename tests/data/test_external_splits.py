"""Lists of images made elsewhere are read as they come, and refused where they cannot be meant."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from busfast.data.external_splits import is_list_path, read_lists
from busfast.data.split import split_table
from busfast.data.split_file import write_split
from busfast.data.table import Table
from busfast.errors import UserError

CLASSES = ("normal", "benign")
IMAGES = ["set/images/a.jpeg", "set/images/b.jpeg", "set/images/c.jpeg", "set/more/d.png", "set/more/e.png", "x/e.png"]


@pytest.fixture
def images():
    rows = pd.DataFrame({"image": IMAGES, "label": ["normal", "benign"] * 3, "center": "", "patient": "", "device": "",
                          "mask": ""}, dtype=object)
    return Table(rows, Path("data/set"))


def write(folder, **files):
    for name, text in files.items():
        stem, _, suffix = name.rpartition("_")
        (folder / f"{stem}.{suffix}").write_text(text)


def parts(split):
    names = split.rows["image"].str.rpartition("/")[2]
    return [f"{name[0]} {part}" for name, part in zip(names, split.rows["part"], strict=True)]


EXPECTED = ["a train", "b train", "c valid", "d test", "e unused", "e unused"]


@pytest.mark.parametrize(("files", "name"), [
    pytest.param({"train_csv": "image\na.jpeg\nb.jpeg\n", "val_csv": "image\nc.jpeg\n", "test_csv": "image\nd.png\n"},
                 "", id="a list a part"),
    pytest.param({"my_train_csv": "image_id,split,label\na.jpeg,train,Normal\nb.jpeg,train,Benign\n",
                  "my_val_csv": "image_id,split,label\nc.jpeg,val,Normal\n", "my_test_csv": "image_id\nd.png\n",
                  "other_train_csv": "image\nd.png\n"}, "my", id="one of several sets, with labels"),
    pytest.param({"fold-1_train_txt": "set/images/a.jpeg\nset/images/b.jpeg\n\n", "fold-1_valid_txt": "c\n",
                  "fold-1_test_txt": "d\n"}, "", id="text, paths or bare names; the only set needs no name"),
    pytest.param({"split_csv": "file;set\na.jpeg;Training\nb.jpeg;train\nc.jpeg;validation\nd.png;test\n"},
                 "split.csv", id="one file, semicolons"),
])
def test_lists_of_many_writings_give_the_same_parts(tmp_path, images, files, name):
    write(tmp_path, **files)
    table = read_lists(tmp_path / name, images, CLASSES)
    assert parts(table) == EXPECTED
    assert "2 of 6 images are on no list and unused" in table.notes and table.root == images.root


def test_lists_of_another_system_are_read(tmp_path):
    names = ["csv/Gro\u0308\u00dfe.PNG", "csv/1.2.840.png", "csv/IMG_3.jpg"]
    rows = pd.DataFrame({"image": names, "label": "x"}, dtype=object)
    write(tmp_path, train_txt="D:\\study\\gr\u00f6\u00dfe.png\n", val_txt="1.2.840\n", test_txt="img_3.JPG\n")
    assert read_lists(tmp_path, Table(rows), ("x",)).rows["part"].tolist() == ["train", "valid", "test"]


def test_a_split_that_busfast_wrote_is_such_a_list(tmp_path, images):
    rows = pd.concat([images.rows.assign(image=images.rows["image"] + str(n)) for n in range(9)], ignore_index=True)
    more = replace(images, rows=rows)
    split = split_table(more, classes=CLASSES)
    write_split(split, tmp_path / "split.csv")
    assert read_lists(tmp_path / "split.csv", more, CLASSES).rows["part"].tolist() == split.rows["part"].tolist()


def test_an_image_on_two_lists_is_there_twice_and_one_named_twice_in_a_list_once(tmp_path, images):
    write(tmp_path, train_csv="image\na.jpeg\nb.jpeg\na.jpeg\n", val_csv="image\na.jpeg\n")
    table = read_lists(tmp_path, images, CLASSES)
    assert parts(table)[:3] == ["a train", "a valid", "b train"]
    assert [note for note in table.notes if "named twice" in note or "test list" in note] == [
        "warning: no image is on a test list", "1 images are named twice in the same part and used once"]


@pytest.mark.parametrize(("files", "name", "message"), [
    ({}, "", "There are no lists at"),
    ({}, "no/such", "There are no lists at"),
    ({"a_train_csv": "x\n", "b_train_csv": "x\n"}, "", "has the lists of 2 splits. Name one: --split="),
    ({"a_train_csv": "x\n", "b_train_csv": "x\n"}, "c", "has no lists called 'c'. Name one: --split="),
    ({"kfold-1_csv": "x\n"}, "", "kfold-1.csv), or a folder"),
    ({"kfold-1_csv": "x\n"}, "kflod-1.csv", "kfold-1.csv'? Name a CSV file"),
    ({"train_csv": "image\nz.jpeg\n"}, "", "train.csv, row 2: 'z.jpeg' is not in the table of images"),
    ({"train_csv": "image\ne.png\n"}, "", "'e.png' may be 'set/more/e.png' or 'x/e.png'"),
    ({"train_csv": "image,label\na.jpeg,benign\n"}, "", "train.csv, row 2: the label is 'benign', but the table has "
                                                        "'normal'"),
    ({"train_csv": "image,label\na.jpeg,cyst\n"}, "", "train.csv, row 2: Unknown label 'cyst'"),
    ({"train_csv": "image\na.jpeg\nb.jpeg\n"}, "", "name no image for valid"),
    ({"train_csv": "image\na.jpeg\n", "val_csv": "image\nb.jpeg\n"}, "", "have no benign image for train"),
    ({"train_csv": "picture\na.jpeg\n"}, "", "no column names the image (found: picture)"),
    ({"all_csv": "image\na.jpeg\n"}, "all.csv", "no column names the part"),
    ({"all_csv": "image,part\na.jpeg,trian\n"}, "all.csv", "all.csv, row 2, column part: 'trian' is none of"),
])
def test_lists_that_cannot_be_meant_are_refused(tmp_path, images, files, name, message):
    write(tmp_path, **files)
    with pytest.raises(UserError) as caught:
        read_lists(tmp_path / name, images, CLASSES)
    assert message in str(caught.value)


def test_a_path_is_told_from_the_name_of_a_split(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    assert [is_list_path(name) for name in ("stratified", "mine", "a/b", "split.csv", "stratfied")] == [
        False, True, True, True, False]
