"""A split file holds all of a split, may be edited, and is refused by row where it is wrong."""

from pathlib import Path

import pytest
from PIL import Image

from busfast.data.check import hash_pixels
from busfast.data.groups import group_names
from busfast.data.split import SPLITS, split_folds, split_table
from busfast.data.split_file import check_unchanged, read_split, write_split
from busfast.errors import UserError
from data.tables import COLUMNS, images, random_table, tiny_table


@pytest.mark.parametrize("split", [name for name in SPLITS if name != "given"])
def test_a_split_reads_back_as_it_was_written_with_the_groups(tmp_path, split):
    for table in split_folds(random_table(0), split).values():
        table.rows.loc[0, ["patient", "device"]] = ["NA", 'a "B",\nKöln']
        write_split(table, tmp_path / "split.csv")
        back = read_split(tmp_path / "split.csv", "data/set")
        assert back.rows.drop(columns="group").to_numpy().tolist() == table.rows[[*COLUMNS, "part"]].to_numpy().tolist()
        assert back.rows["group"].to_list() == group_names(table.rows, across_centers=False).to_list()
        assert back.root == Path("data/set")


def test_age_and_sex_of_a_table_are_kept_under_one_name(tmp_path):
    table = split_table(tiny_table(4, 4, 4))
    rows = table.rows.assign(Age="50", gender=["F"] + [""] * (len(table) - 1), sexuality="x")
    write_split(rows, tmp_path / "split.csv")
    back = read_split(tmp_path / "split.csv", "").rows
    assert back["age"].tolist() == ["50"] * len(rows) and back["sex"].tolist() == rows["gender"].tolist()
    write_split(rows.assign(Age=""), tmp_path / "split.csv")
    assert {"age", "sexuality", "gender"}.isdisjoint(read_split(tmp_path / "split.csv", "").rows)


def test_a_split_file_may_be_edited(tmp_path):
    table = split_table(tiny_table(4, 4, 4))
    write_split(table, tmp_path / "split.csv")
    text = (tmp_path / "split.csv").read_text(encoding="utf-8")
    (tmp_path / "split.csv").write_text(text.replace(",valid", ",test"), encoding="utf-8")
    assert images(read_split(tmp_path / "split.csv", ""), "test") == images(table, "valid") | images(table, "test")


@pytest.mark.parametrize(("text", "expected"), [
    pytest.param("image,label,part\na.png,benign,train\nb.png,benign,tset\n", ["row 3", "column part", "'tset'"],
                 id="unknown part"),
    pytest.param("image,label,part\na.png,benign,train\n\nb.png,benign,tset\n", ["row 3: the row is empty"],
                 id="blank line"),
    pytest.param("image,label,part\na.png,benign\n", ["row 2: 2 cells"], id="a cell short"),
    pytest.param("image,label,part\na.png,benign,\n", ["row 2", "column part", "''"], id="no part in the cell"),
    pytest.param("image,label\na.png,benign\n", ["row 1", "'part' is missing"], id="no part"),
    pytest.param("image,part\na.png,train\n", ["row 1", "'label' is missing"], id="no label"),
])
def test_an_unsound_split_file_is_refused_by_file_row_and_value(tmp_path, text, expected):
    (tmp_path / "split.csv").write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_split(tmp_path / "split.csv", "")
    for part in (str(tmp_path / "split.csv"), *expected):
        assert part in str(caught.value)


def test_an_image_above_a_limit_of_pixels_that_was_lowered_is_not_said_to_have_changed(tmp_path, parts, monkeypatch):
    write_split(hash_pixels(parts), tmp_path / "split.csv")
    split = read_split(tmp_path / "split.csv", parts.root).only("test")
    assert len(check_unchanged("a/run", split)) == len(split)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(UserError, match=rf"{len(split)} images of a/run cannot be read, such as images/.*png: too many "
                                        r"pixels to decode: \d+; the limit is 1000 .*--max_pixels=\d+"):
        check_unchanged("a/run", split)
