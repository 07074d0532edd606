"""What is printed of scores says what they are, and why one has no interval."""

import numpy as np
import pandas as pd
import pytest

from busfast.cli import main
from busfast.results.printing import BLANK, LIKENESS, PIXELS, format_interval, name_part, print_explanation


@pytest.mark.parametrize(("row", "text"), [
    ((0.5, 0.25, 0.75, "macro_auc"), "0.500 (0.250 to 0.750)"),
    ((0.5, np.nan, np.nan, "macro_auc"), "0.500 (too few patients)"),
    ((0.5, np.nan, np.nan, "ece"), "0.500 (no interval)"), ((np.nan, np.nan, np.nan, "macro_auc"), "not defined")])
def test_an_estimate_has_its_interval_or_the_reason_why_it_has_none(row, text):
    assert format_interval(pd.Series(row, ["estimate", "low", "high", "score"])) == text


def test_parts_have_names_for_people():
    assert [name_part(part) for part in ("valid", "test", "external")] == [
        "validation part", "test part", "external set"]


def test_what_evaluate_prints_is_what_it_writes(evaluated, capsys):
    assert main(["evaluate", "--run=phantom/center_holdout"]) == 0
    out = capsys.readouterr().out
    table = pd.read_csv("results/phantom/center_holdout/metrics.csv").query("by == 'all'").set_index(["part", "score"])
    for part, said in zip(("valid", "test"), out.split(" part, ")[1:], strict=True):
        assert f"macro_auc                {format_interval(table.loc[part, 'macro_auc'])}" in said


def test_a_probe_that_is_not_possible_has_its_reason_and_no_score(capsys):
    maps = pd.DataFrame([{"measure": "pointing", "estimate": 0.5, "low": 0.4, "high": 0.6, "images": 1}])
    row = {"score": "macro AUC", "estimate": np.nan, "low": np.nan, "high": np.nan, "chance": 0.5, "images": 0}
    print_explanation("phantom/a", maps, pd.DataFrame([row | {"probe": "lesion alone", "verdict": "Not possible."}]))
    lines = capsys.readouterr().out.splitlines()
    assert "0.500 (0.400 to 0.600), 1 image" in lines[2] and "brightest point lies in the lesion" in lines[3]
    assert lines[-1].split(None, 2) == ["lesion", "alone", "Not possible."]


def test_a_difference_of_pixels_is_read_as_one(capsys):
    print_explanation("phantom/a", pd.DataFrame(columns=["measure", "images"]), pd.DataFrame([
        {"probe": "preprocessing", "score": PIXELS, "estimate": 1.121, "low": np.nan, "high": np.nan, "chance": 0.0,
         "images": 48, "verdict": "Said."}]))
    assert "mean difference 1.1 of 255. Said." in capsys.readouterr().out


def test_each_measure_of_maps_has_its_meaning_and_none_is_said_twice(capsys):
    found = {"estimate": 0.5, "low": 0.4, "high": 0.6, "images": 4}
    print_explanation("phantom/a", pd.DataFrame([{"measure": name} | found for name in (LIKENESS, BLANK)]),
                      pd.DataFrame(columns=["probe", "score", "images", "verdict"]))
    said = capsys.readouterr().out
    assert "likeness near 1: the maps show the image, not what the model has learned" in said
    assert "2 of 4 maps have no color" in said and BLANK not in said and "there are no lesion masks" in said
