"""The learning-rate finder prints a suggestion, draws the curve and leaves no weights behind."""

import sys

import numpy as np
import pandas as pd
import pytest

from busfast.cli import main
from busfast.errors import UserError
from busfast.training.lr_find import draw, suggest

RATES = np.geomspace(1e-7, 10, 100)
CURVE = pd.DataFrame({"lr": RATES, "loss": 1.1 - 0.2 / (1 + (np.log10(RATES / 1e-2)) ** 4) + RATES**3})  # to 1,001


def test_lr_find_suggests_a_rate_and_draws_the_curve(workdir, capsys):
    assert main(["lr_find", "--split=stratified"]) == 0
    folder = workdir / "results" / "phantom" / "lr_find-stratified"
    assert {path.name for path in folder.iterdir()} == {"lr_find.png", "lr_find.csv"}
    out, errors = capsys.readouterr()
    assert "\r" not in out + errors, "a bar in a plain file"
    assert "suggested learning rate: " in out and all(f"{name} " in out for name in ("valley", "steep", "slide"))
    assert len(pd.read_csv(folder / "lr_find.csv")) > 20
    assert not (workdir / "models" / "phantom").exists() or not any((workdir / "models" / "phantom").iterdir())


def test_on_a_terminal_the_bar_of_lr_find_is_wiped_and_none_of_fastai_s_is_left(workdir, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(["lr_find"]) == 0
    out, errors = capsys.readouterr()
    assert "trying learning rates: " in errors and errors.split("\r")[-2].isspace()
    assert "\r" not in out and "\nfastai's other suggestions: " in out


def test_picture_shows_the_dip_and_marks_every_suggestion():
    suggested = suggest(CURVE)
    assert suggested["minimum"] == pytest.approx(1e-3, rel=0.2)  # a tenth of 1e-2, where the loss is lowest
    axes = draw(CURVE, suggested, "").axes[0]
    low, high = axes.get_ylim()
    assert low < CURVE["loss"].min() and 1.1 < high < 1.2, "the divergence sets the axis"
    marked = {line.get_label(): line for line in axes.lines if line.get_marker() != "None"}
    assert [line.get_xdata()[0] for line in marked.values()] == list(suggested.values()) and len(marked) == 4
    assert all(low < line.get_ydata()[0] < high for line in marked.values())


def test_loss_that_is_never_finite_is_said():
    with pytest.raises(UserError, match="not finite"):
        suggest(CURVE.assign(loss=np.where(RATES < 3e-6, 1.1, np.nan)))
