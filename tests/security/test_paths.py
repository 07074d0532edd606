"""Paths and cells that lead somewhere else; see tests/data/test_table.py for those of a table to train on."""

import csv
import os
from pathlib import Path

import pandas as pd
import pytest

from busfast.cli import main
from busfast.csvfile import escape, read_rows, write_csv
from busfast.data.paths import locate
from busfast.data.split_file import read_split
from busfast.errors import UserError
from busfast.inference.resumable_csv import ResumableCsv
from security.hostile import BUNDLE, DATA, RESULTS, RUN, images, refused

FORMULAS = ["=HYPERLINK(\"http://x\",\"y\")", "+1-1", "-1+1|cmd", "@SUM(A1)", "\t=1+1", "\r=1+1", " =1+1", "\tx", "\rx",
            "\n=1", "＝1+1", "＋1", "－1+1", "＠SUM(A1)", "'=1", "'\tx", "\xa0=1"]
START = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def cells(path):
    with open(path, newline="", encoding="utf-8") as file:
        return [cell for row in csv.reader(file) for cell in row]


def runs(cell):
    """Whether a spreadsheet may take a cell for a formula, also one that drops the space before it."""
    try:
        float(cell)
    except ValueError:
        return cell.startswith(START) or cell.strip().startswith(START)
    return False


@pytest.mark.parametrize("value", ["../secret.png", "/etc/hosts", r"C:\a.png", r"..\a.png", r"\\server\share\a.png"])
@pytest.mark.parametrize("column", ["image", "mask"])
def test_a_split_file_leads_nowhere_else(exported_run, column, value, capsys):
    split = pd.read_csv(RESULTS / "split.csv", dtype=str, keep_default_na=False)
    split.loc[split["part"] == "test", column] = value
    split.to_csv(RESULTS / "split.csv", index=False)
    with pytest.raises(UserError, match=rf"column {column}: .* (is an absolute path|leads out)"):
        read_split(RESULTS / "split.csv", DATA)
    assert value in refused(f"evaluate --run={RUN} --again", capsys)


def test_two_slashes_do_not_lead_out_of_a_source(tmp_path):
    assert locate(tmp_path, "busi//etc/hosts", {"busi": tmp_path / "x"}) == tmp_path / "x" / "etc" / "hosts"


def test_a_list_for_predict_may_name_files_anywhere_and_says_nothing_of_what_is_in_them(exported_run, tmp_path):
    """It is the user's own list, as are the other inputs: an image is predicted, anything else gives a reason."""
    outside = tmp_path / "outside.png"
    outside.write_bytes(images()[0].read_bytes())
    Path("secret.txt").write_text("password: 12345")
    Path("lists").mkdir()
    names = ["../secret.txt", str(outside), f"../{images()[0]}", "a" * 300 + ".png", "a\\b.png", "\\\\no server\\x.png",
             "..", "CON", "~root/x.png"]
    Path("lists/list.csv").write_text("image\n" + "".join(f"{name}\n" for name in names))
    assert main(["predict", "lists/list.csv", f"--model={BUNDLE}", "--out=out.csv"]) == 0
    rows = pd.read_csv("out.csv", keep_default_na=False)
    assert rows["image"].tolist() == names
    assert rows["status"].tolist() == ["unreadable", "ok", "ok", *["unreadable"] * 6]
    assert "12345" not in Path("out.csv").read_text()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_a_pipe_in_place_of_a_table_keeps_nobody_waiting(exported_run, capsys):
    os.mkfifo("list.csv")
    assert "list.csv is not a regular file" in refused(f"predict list.csv --model={BUNDLE} --out=out.csv", capsys)


def test_a_table_that_would_fill_the_memory_is_not_read(tmp_path):
    with open(tmp_path / "t.csv", "wb") as file:
        file.truncate(2**40)  # takes no room on the disk
    with pytest.raises(UserError, match="the limit is 500,000,000"):
        read_rows(tmp_path / "t.csv", ("image",))


def test_a_header_of_very_many_columns_is_refused_at_once(tmp_path):
    (tmp_path / "t.csv").write_text(",".join(f"c{number}" for number in range(300_000)) + "\nx\n")
    with pytest.raises(UserError, match="and 299980 more"):
        read_rows(tmp_path / "t.csv", ("image",))


@pytest.mark.parametrize("cell", FORMULAS)
def test_a_cell_that_a_spreadsheet_may_run_is_written_with_an_apostrophe_and_read_back_as_it_was(tmp_path, cell):
    write_csv(pd.DataFrame({"image": ["x"], cell: [cell]}), tmp_path / "t.csv")
    file = ResumableCsv(tmp_path / "g.csv", ["image", cell], "x", False)
    file.write([["x", cell]])
    file.finish()
    for name in ("t.csv", "g.csv"):
        assert cells(tmp_path / name) == ["image", f"'{cell}", "x", f"'{cell}"]
        assert read_rows(tmp_path / name, ("image",))[:2] == (["image", cell], [(2, ["x", cell])])


@pytest.mark.parametrize("cell", ["-5", " -5", "+3.5e-7 ", "a=b", " x", "1-2", "", "-.5"])
def test_a_cell_that_runs_nowhere_is_written_as_it_is(cell):
    assert escape(cell) == cell


def test_no_table_that_busfast_writes_holds_a_formula(exported_run, tmp_path):
    """Names of images, patients, centers and devices that are formulas, through every verb that writes a table."""
    names = ["=HYPERLINK(1).png", "+1.png", "-1+1|cmd.png", "@SUM(A1).png", "\t=1.png", "＝1.png"]
    table = pd.read_csv(DATA / "table.csv", dtype=str, keep_default_na=False)
    rename = dict(zip(table["image"], names, strict=False))
    for old, new in rename.items():
        (DATA / old).rename(DATA / new)
    table["image"] = table["image"].replace(rename)
    for column in ("patient", "center", "device"):
        table[column] = "=" + table[column]
    write_csv(table, DATA / "table.csv")
    before = {path for path in Path().rglob("*.csv")} - {DATA / "table.csv"}
    for path in before:
        path.unlink()
    for words in ("audit", "split --data=data/phantom", "train --then=report",
                  f"predict data/phantom --model={BUNDLE} --out=out.csv",
                  "prepare --source=csv --path=data/phantom/table.csv --out=data/again"):
        assert main(words.split()) == 0
    written = set(Path().rglob("*.csv"))
    assert {path.name for path in written} >= {"table.csv", "audit.csv", "stratified.csv", "split.csv", "out.csv",
                                               "predictions.csv", "metrics.csv", "training_log.csv"}
    for path in written:
        assert [cell for cell in cells(path) if runs(cell)] == [], path
        assert path.name not in ("out.csv", "split.csv") or any("HYPERLINK" in cell for cell in cells(path))


def test_commands_to_the_terminal_in_a_cell_are_shown_and_not_obeyed(exported_run, capsys):
    (DATA / "table.csv").write_text("image,label\nx\x1b]0;owned\x07\u202e.png,benign\n")
    said = refused("train", capsys)
    assert "\\x1b]0;owned\\x07\\u202e.png" in said and "\x1b" not in said


@pytest.mark.parametrize("words", ["train --data={0}", "train --weights={0}", "train --split={0}/", "audit --data={0}",
                                   "train --pipeline={0}", "predict {0} --model=" + str(BUNDLE),
                                   "predict x --model={0}", "train --data={0}.csv"])
def test_a_name_that_no_file_can_have_is_refused_as_one_that_is_not_there(exported_run, words, capsys):
    refused(words.format("a" * 300), capsys)


def test_a_folder_that_no_folder_can_be_called_is_refused_by_row(exported_run, capsys):
    (DATA / "sources.csv").write_text(f"name,folder\nx,{'a' * 300}\n")
    assert "sources.csv, row 2, column folder: there is no folder 'aaa" in refused("train", capsys)
