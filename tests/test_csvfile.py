"""CSV files of clinics and spreadsheets are read as they come, and what is written runs nowhere as a formula."""

import csv

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from busfast.csvfile import read_rows, write_csv
from busfast.errors import UserError

TEXT = "image,label,center\na.png,benign,Köln\n"


@pytest.mark.parametrize(("raw", "said"), [
    pytest.param(TEXT.encode(), "", id="UTF-8"),
    pytest.param(TEXT.encode("utf-8-sig"), "", id="byte-order mark"),
    pytest.param(TEXT.encode("latin-1"), "Latin-1", id="Latin-1"),
    pytest.param(TEXT.encode("utf-16"), "UTF-16", id="UTF-16"),
    pytest.param(TEXT.replace("\n", "\r\n").encode(), "", id="Windows line ends"),
    pytest.param(TEXT.replace("\n", "\r").encode(), "", id="old Mac line ends"),
    pytest.param((TEXT + ",,\n\n, \n").encode(), "", id="blank rows at the end"),
    pytest.param(TEXT.replace(",", ";").encode(), "semicolons", id="semicolons"),
    pytest.param(TEXT.replace(",", "\t").encode(), "tabs", id="tabs"),
    pytest.param(TEXT.replace("\n", "\r\n").replace(",", ";").encode("latin-1"), "Latin-1", id="Excel in German"),
])
def test_the_same_table_is_read_however_it_is_written_and_it_is_said(tmp_path, raw, said):
    (tmp_path / "t.csv").write_bytes(raw)
    header, rows, notes = read_rows(tmp_path / "t.csv", ("image", "label"))
    assert header == ["image", "label", "center"]
    assert rows == [(2, ["a.png", "benign", "Köln"])]
    assert bool(notes) == bool(said) and all(str(tmp_path / "t.csv") in note for note in notes)
    assert said in " ".join(notes)


def test_a_comma_in_a_cell_does_not_make_a_semicolon_table_one_of_commas(tmp_path):
    (tmp_path / "t.csv").write_text('image;label;"note, of, the, reader"\na, b.png;benign;x,y\n')
    assert read_rows(tmp_path / "t.csv", ("image", "label")).rows == [(2, ["a, b.png", "benign", "x,y"])]


def test_bytes_that_are_no_text_are_refused_by_name(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"\xff\xfe\x00\xd8\x00")
    with pytest.raises(UserError, match="t.csv is neither UTF-8 nor UTF-16"):
        read_rows(tmp_path / "t.csv", ("image",))


@pytest.mark.parametrize("cell", ["=1+1.png", "=HYPERLINK(\"http://x\")", "+x", "@SUM(A1)", "-cmd|' /C calc'!A0", "'=1",
                                  "--5"])
def test_a_formula_is_written_so_that_no_spreadsheet_runs_it_and_read_back_as_it_was(tmp_path, cell):
    write_csv(pd.DataFrame({"image": [cell, "b"]}), tmp_path / "t.csv")
    with open(tmp_path / "t.csv", newline="", encoding="utf-8") as file:
        assert list(csv.reader(file))[1] == [f"'{cell}"]
    assert read_rows(tmp_path / "t.csv", ("image",)).rows[0] == (2, [cell])


@pytest.mark.parametrize("cell", ["-5", "+3.5", "-1e-5", "a=b", "'quoted'", "x-y"])
def test_numbers_and_plain_text_are_written_as_they_are(tmp_path, cell):
    write_csv(pd.DataFrame({"image": [cell]}), tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == f"image\n{cell}\n"


@settings(max_examples=200)
@given(st.lists(st.tuples(*[st.text(st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from("\r\n\t,;\"'="),
                                    min_size=1, max_size=12)] * 2), min_size=1, max_size=5))
def test_any_cells_come_back_as_they_were_but_for_the_space_around_them(tmp_path_factory, cells):
    path = tmp_path_factory.mktemp("rows") / "t.csv"
    cells = [tuple(f"{cell.strip()}." for cell in row) for row in cells]
    write_csv(pd.DataFrame(cells, columns=["image", "label"]), path)
    assert [tuple(row) for _, row in read_rows(path, ("image", "label")).rows] == cells
