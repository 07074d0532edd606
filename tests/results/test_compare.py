"""Runs are compared on their test parts, paired if the images are the same.

Covers busfast/results/compare.py and busfast/results/differences.py.
"""

import os
import re
import shutil

import pandas as pd
import pytest

from busfast.cli import main
from busfast.results.compare import WIDTH, compare_runs, format_rows
from busfast.results.differences import pairs_of
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
    same = pd.read_csv("results/differences.csv")
    assert (same[["difference", "low", "high"]] == 0).all(axis=None) and same["recipe"].isna().all()
    config = Run("phantom/twin").results / "config.yaml"
    config.write_text(config.read_text().replace("run:\n", "run:\n  label_decisions: {sha256: abc}\n"))
    run("compare", f"--runs={NAME},phantom/twin")
    assert set(pd.read_csv("results/differences.csv")["recipe"]) == {"label decisions"}


def test_a_run_is_listed_with_the_scores_of_its_best_epoch_and_the_best_run_first(place, capsys):
    log = pd.read_csv(Run(NAME).results / "training_log.csv").iloc[[0, 0, 0]].assign(epoch=[1, 2, 3])
    log[["val_loss", "macro_auc"]] = [[0.5, 0.71], [0.9, 0.81], [0.4, 0.61]]
    for name, best in ((NAME, 2), ("phantom/other", 3), ("else/run", 1)):
        if name != NAME:
            shutil.copytree(Run(NAME).results, Run(name).results)
        log.to_csv(Run(name).results / "training_log.csv", index=False)
        summary = Run(name).results / "summary.yaml"
        summary.write_text(re.sub("best_epoch: .*", f"best_epoch: {best}", summary.read_text()))
    os.utime(Run("else/run").results / "config.yaml", (1, 1))  # started first
    run("compare")
    said = capsys.readouterr().out
    table = pd.read_csv("results/compare.csv")
    shown = table[["run", "best_epoch", "macro_auc"]].to_numpy().tolist()
    assert shown == [[NAME, 2, 0.81], ["phantom/other", 3, 0.61]]
    assert "compare: 2 runs of phantom" in said and "compare --all" in said and "nan" not in said.lower()
    run("compare", "--all")
    assert pd.read_csv("results/compare.csv")["run"].tolist() == [NAME, "else/run", "phantom/other"]
    run("compare", "--all", f"--runs={NAME}", code=2)


def test_the_table_fits_a_terminal_whatever_the_names_and_what_is_unknown_is_a_dash(place, monkeypatch):
    table = compare_runs()[0]
    table.loc[0, "run"] = f"phantom/{'a' * 99}-fold7"
    head, line = format_rows(table)
    assert head.startswith("run of phantom ") and line.startswith("aaaa") and "a-fold7 " in line
    assert line.split()[-2:] == ["-", "-"]
    known = table.assign(test_macro_auc=0.9, test_low=0.8, test_high=0.95, positive="malignant", test_sensitivity=1 / 3)
    for columns in (80, 200):
        monkeypatch.setenv("COLUMNS", str(columns))
        head, line = format_rows(known)
        assert "0.900 (0.800 to 0.950)" in line and line.endswith(" 0.333")
        assert len(head) == len(line) == min(columns, WIDTH)
    monkeypatch.setenv("COLUMNS", "80")
    both = pd.concat([known, known.assign(run="phantom/kfold-1of2-seeds-ensemble", epochs=0)])
    assert {len(line) for line in format_rows(both)} == {80} and "\nkfold-1of2-seeds-ensemble  " in "\n".join(
        format_rows(both))
    other = pd.concat([known, known.assign(run="other/stratified")])
    assert format_rows(other)[0].startswith("run  ") and format_rows(other)[2].startswith("other/stratified ")


def test_the_settings_in_which_runs_differ_are_said_with_their_values(place, capsys):
    for name, lr in (("phantom/low", 1e-4), ("phantom/low-seed43", 1e-4)):
        shutil.copytree(Run(NAME).results, Run(name).results)
        config = Run(name).results / "config.yaml"
        config.write_text(re.sub(r"(?m)^lr: .*", f"lr: {lr:g}", config.read_text()))
    config.write_text(re.sub(r"(?m)^seed: .*", "seed: 43", config.read_text()))
    run("compare")
    said = capsys.readouterr().out
    assert "\nlr: 0.0001 (low, low-seed43); 0.001 (center_holdout)\n" in said
    assert "\nseed" not in said and "\nepochs: " not in said and "see results" not in said
    assert pd.read_csv("results/compare.csv").set_index("run")["lr"].to_dict() == {
        NAME: 1e-3, "phantom/low": 1e-4, "phantom/low-seed43": 1e-4}


def test_the_paired_differences_are_printed_to_the_best_of_the_runs_with_the_same_test_images():
    pairs = [("a/b", "a/c", "macro_auc", "same", 0.1, 0.05, 0.15),
             ("a/b", "a/d", "macro_auc", "same", -0.2, -0.3, -0.1),
             ("a/c", "a/d", "macro_auc", "same", -0.3, float("nan"), float("nan")),
             ("a/c", "a/d", "balanced_accuracy", "same", 0.9, 0.8, 1.0),
             ("a/e", "a/f", "macro_auc", "same", 0.0, 0.0, 0.0),
             ("a/b", "a/f", "macro_auc", "different", 1.0, 1.0, 1.0)]
    table = pd.DataFrame(pairs, columns=["a", "b", "score", "images", "difference", "low", "high"])
    found = pairs_of(table, ["a/c", "a/d", "a/f", "a/b", "a/e"])
    texts = [[line.split() for line in text.splitlines()] for text in found]
    assert [text[0][6] for text in texts] == ["a/c", "a/f"]
    assert texts[0][1:] == [["a/d", "-0.300", "(too", "few", "patients)"],
                            ["a/b", "-0.100", "(-0.150", "to", "-0.050)"]]
    assert texts[1][1:] == [["a/e", "+0.000", "(+0.000", "to", "+0.000)"]]
