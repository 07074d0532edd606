"""On a terminal, lines break between words, and commands stay whole."""

import io
import sys

from busfast.cli import main
from busfast.terminal import Fitted, fit


class Screen(io.StringIO):
    def isatty(self):
        return True


def test_a_long_line_breaks_between_words_and_continues_indented(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    assert fit("  one two three four five six\nshort") == "  one two three four\n    five six\nshort"
    path = "data/a-folder/with-a/very-long/path"
    assert fit(f"wrote {path} today") == f"wrote\n  {path}\n  today"


def test_a_command_to_paste_stays_whole_behind_what_is_broken_and_a_line_in_bold_is_left_alone(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    line = f"  cache: {'decoding images, ' * 8}to continue: python -m busfast train --split=stratified --resume x y"
    lines = fit(line).split("\n")
    assert " ".join(lines).split() == line.split() and max(map(len, lines[:-1])) <= 60
    assert [len(each) - len(each.lstrip()) for each in lines] == [2] + [4] * (len(lines) - 1)
    assert lines[-1].strip() == line[line.index("python"):]
    message = "Make a table (python -m busfast prepare --help), or write one with a row for each image; columns: a"
    assert fit(message).split("\n") == ["Make a table (python -m busfast prepare --help), or write",
                                        "  one with a row for each image; columns: a"]
    command = "python -m busfast predict a.png 'b c/d.png' --out='my answers/of today.csv' --batch_size=8"
    assert fit(f"If so: {command}. Else nothing.").split("\n") == ["If so:", f"  {command}.", "  Else nothing."]
    for words in ("predict NEW_IMAGES --model=models/mine/stratified-2/bundle", "ensemble a b"):
        command = f"python -m busfast {words} {'--quiet ' * 4}".strip()
        assert fit(f"Next: {command}").split("\n") == ["Next:", f"  {command}"]
    packages = "ONNX is missing, and the file cannot be made without: pip install onnx onnxscript onnxruntime"
    assert fit(packages).split("\n")[-1] == "  pip install onnx onnxscript onnxruntime"
    bold = f"\033[1m  1/8*  {'0.920  ' * 10}\033[0m"
    assert fit(bold) == bold


def test_all_that_a_verb_prints_fits_a_terminal(monkeypatch, phantom_folder, tmp_path):
    monkeypatch.setenv("COLUMNS", "60")
    words = ["audit", f"--data={phantom_folder}", f"--out={tmp_path / 'audit'}"]
    monkeypatch.setattr(sys, "stdout", Screen())
    assert main(words) == 0
    lines = sys.stdout.getvalue().splitlines()
    assert "Cramer's V is" in "\n".join(lines) and isinstance(sys.stdout, Screen)
    assert [line for line in lines if len(line) > 60 and " " in line.strip() and "python -m" not in line] == []


def test_in_a_file_lines_are_as_they_were(monkeypatch, phantom_folder, tmp_path, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["audit", f"--data={phantom_folder}", f"--out={tmp_path / 'audit'}"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) > 200


def test_a_fitted_stream_is_the_terminal_otherwise():
    screen = Screen()
    assert Fitted(screen).isatty() and Fitted(screen).write("as it is\n") == 9
