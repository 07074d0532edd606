"""Runs are compared on their test parts, paired if the images are the same.

Covers busfast/results/compare.py and busfast/results/differences.py.
"""

import shutil

import pandas as pd
import pytest

from busfast.cli import main
from busfast.training.runs import Run

NAME = "phantom/center_holdout"


def run(*words, code=0):
    assert main(list(words)) == code


def test_train_goes_on_to_evaluate_and_report_and_compare_shows_the_gap(place, capsys):
    run("train", "--split=stratified", "--epochs=1", "--then=report")
    assert (Run("phantom/stratified").results / "report.html").is_file()
    run("evaluate", f"--run={NAME}")
    run("compare")
    said = capsys.readouterr().out
    assert "phantom/center_holdout against phantom/stratified: macro AUC" in said
    assert "differ in" not in said
    table = pd.read_csv("results/compare.csv").set_index("run")
    assert table["test_macro_auc"].notna().all() and (table["test_low"] < table["test_high"]).all()
    apart = pd.read_csv("results/differences.csv").set_index("score")
    assert set(apart["images"]) == {"different"} and set(apart["b"]) == {NAME}
    assert apart["difference"].tolist() == pytest.approx((apart["value_b"] - apart["value_a"]).tolist(), abs=1e-5)
    run("train", "--then=evalute", code=2)
    assert "Did you mean 'evaluate'?" in capsys.readouterr().err


def test_runs_on_the_same_test_images_are_compared_pair_by_pair(place):
    run("train", "--split=center_holdout", "--epochs=1", "--lr=1e-5", "--then=evaluate")
    run("evaluate", f"--run={NAME}")
    run("compare", f"--runs={NAME},{NAME}-2")
    apart = pd.read_csv("results/differences.csv")
    assert set(apart["images"]) == {"same"} and len(apart) == 3 and set(apart["recipe"]) == {"lr"}
    assert (apart["low"] <= apart["difference"]).all() and (apart["difference"] <= apart["high"]).all()
    # a run against itself: no patients make a difference
    shutil.copytree(Run(NAME).results, Run("phantom/twin").results)
    run("compare", f"--runs={NAME},phantom/twin")
    assert (pd.read_csv("results/differences.csv")[["difference", "low", "high"]] == 0).all(axis=None)
