"""The table of epochs on a terminal: it fits, whatever the classes; the best epoch is marked; the log is unchanged."""

import re
import sys

import pandas as pd
import pytest

from busfast.cli import main
from busfast.training import screen
from busfast.training.job import Turn
from busfast.training.screen import LOWEST, TableProgress, choose_columns, format_header, format_row

NAMES = ["train_loss", "val_loss", "val_acc", "macro_auc"]
CLASSES = {2: ["no finding", "pneumonia"], 3: ["normal", "benign", "malignant"],
           10: [f"class number {number}" for number in range(10)]}


@pytest.mark.parametrize("width", [40, 79, 119])
@pytest.mark.parametrize("epochs", [5, 1000])
@pytest.mark.parametrize("count", CLASSES)
def test_a_line_of_any_number_of_classes_fits(count, epochs, width):
    names = [*NAMES, *(f"recall_{label}" for label in CLASSES[count])]
    columns = choose_columns(names, "val_loss", epochs, width)
    cells = {name: "0.5" for name in names} | {f"recall_{CLASSES[count][1]}": "0.25"}
    line = format_row(columns, cells | {"epoch": f"{epochs}/{epochs}*", "lr": "0.0005", "left": "12 min"})
    assert max(map(len, (*format_header(columns), line))) <= width
    keys = [column.key for column in columns]
    assert keys[0] == "epoch" and keys[-1] == "left" and {"train_loss", "val_loss"} <= set(keys)
    if width >= 79:
        assert "lr" in keys and "5.0e-4" in line and ("0.250" in line)
        assert (LOWEST in keys) == (count == 10) and ("0.250 class number 1" in line) == (count == 10)


def test_what_the_best_epoch_is_chosen_by_has_a_column_of_its_own():
    recalls = [f"recall_{label}" for label in CLASSES[10]]
    for monitor, names in ((recalls[3], [*NAMES, *recalls]), ("f1", [*NAMES, *recalls, "f1"])):
        assert monitor in [column.key for column in choose_columns(names, monitor, 20, 79)]


def test_the_time_left_counts_the_trainings_that_come_and_what_follows(monkeypatch):
    monkeypatch.setattr(screen.time, "monotonic", lambda: 10.0)
    for turn, left in ((Turn(), "10 s"), (Turn(later=2, seconds=30), "80 s")):
        progress = TableProgress(None, None, turn)
        progress.first, progress.epoch, progress.n_epoch, progress.began = 0, 1, 4, 0.0  # two of four epochs in 10 s
        assert progress._left(1.0) == left


def test_an_epoch_that_is_interrupted_leaves_no_bar(workdir, capsys, monkeypatch):
    def stop(self, own=TableProgress.after_batch):
        own(self)
        raise KeyboardInterrupt
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(TableProgress, "after_batch", stop)
    assert main(["train", "--epochs=1"]) == 130
    out = capsys.readouterr().out
    assert " batches" in out and not [line for line in out.split("\n") if " batches" in line.rpartition("\r")[2]]


def test_each_epoch_is_one_line_and_the_best_one_is_marked(workdir, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert main(["train", "--epochs=3", "--monitor=recall_normal"]) == 0
    out = capsys.readouterr().out
    assert "valid_loss" not in out and "by recall_normal" in out
    start = [line for line in out.partition("* is the best")[0].splitlines() if "/" not in line]  # paths are not broken
    assert start and max(map(len, start)) <= 80
    lines = [line.rpartition("\r")[2] for line in out.split("\n")]  # the bar is wiped before the line
    lines = [line for line in lines if re.search(r"[1-3]/3", line)]
    log = pd.read_csv("results/phantom/stratified/training_log.csv")
    best = log["recall_normal"] > log["recall_normal"].cummax().shift(fill_value=-1)
    assert ["*" in line for line in lines] == ["\033[1m" in line for line in lines] == best.tolist()
    assert not best.all()  # else this shows little
    assert [f"{value:.3f}" in line for value, line in zip(log["val_loss"], lines, strict=True)] == [True] * 3
    plain = [re.sub(r"\033\[\d?m", "", line) for line in lines]
    assert all(len(line) <= 79 for line in plain) and plain[-1].endswith(" 0 s")
