"""The learning-rate finder prints a suggestion, draws the curve and leaves no weights behind."""

import pandas as pd

from busfast.cli import main


def test_lr_find_suggests_a_rate_and_draws_the_curve(workdir, capsys):
    assert main(["lr_find", "--split=stratified"]) == 0
    folder = workdir / "results" / "phantom" / "lr_find-stratified"
    assert {path.name for path in folder.iterdir()} == {"lr_find.png", "lr_find.csv"}
    assert "suggested learning rate: " in capsys.readouterr().out
    assert len(pd.read_csv(folder / "lr_find.csv")) > 20
    assert not (workdir / "models" / "phantom").exists() or not any((workdir / "models" / "phantom").iterdir())
