"""What is said to have changed on an external set did change, and what did not is not claimed."""

import numpy as np
import pandas as pd
import pytest

from busfast.results.changes import COLUMNS, compare_sets, describe_changes
from results.simulated import CLASSES, simulate_predictions


def predictions(seed, n=240, worse=False):
    labels, probabilities, _ = simulate_predictions(n, seed)
    if worse:  # a third of the images gets the answer of another
        probabilities = np.where(np.arange(n)[:, None] % 3 == 0, np.roll(probabilities, 1, axis=0), probabilities)
    table = pd.DataFrame({"label": np.array(CLASSES)[labels], "group": np.arange(n) // 2})
    for prefix in ("p_", "c_"):
        table = table.join(pd.DataFrame(probabilities, columns=[f"{prefix}{name}" for name in CLASSES]))
    return table


def test_a_set_that_is_alike_is_not_told_to_differ_and_a_worse_one_is():
    own = predictions(0)
    alike = compare_sets(own, predictions(1), CLASSES, "malignant")
    assert list(alike) == COLUMNS and ((alike["low"] <= 0) & (0 <= alike["high"])).all()
    lines = describe_changes(alike, own, "test part of a/b")
    assert lines[0] == "Against the test part of a/b (240 images of 120 groups):"
    assert all("no difference shown" in line for line in lines[1:])
    worse = compare_sets(own, predictions(1, worse=True), CLASSES, "malignant").set_index("what")
    assert worse.at["macro AUC", "high"] < 0 and worse.at["calibration slope malignant", "high"] < 0
    assert worse.at["macro AUC", "difference"] == pytest.approx(
        worse.at["macro AUC", "external"] - worse.at["macro AUC", "own"])
    assert "lower, -0." in describe_changes(worse.reset_index(), own, "test part")[1]


def test_prevalences_and_the_classes_that_both_have_are_compared():
    own, there = predictions(0), predictions(1)
    there = there[(there["label"] != "normal") & ((there["label"] != "malignant") | (there.index % 4 == 0))]
    found = compare_sets(own, there, CLASSES, "malignant").set_index("what")
    assert {"macro AUC of benign, malignant", "share normal", "mean probability malignant"} <= set(found.index)
    for name in CLASSES:
        assert found.at[f"share {name}", "external"] == pytest.approx((there["label"] == name).mean())
    assert found.at["share malignant", "high"] < 0 < found.at["share benign", "low"]


def test_what_cannot_be_compared_is_said_so():
    own, there = predictions(0), predictions(1).query("label == 'benign'")
    lines = "\n".join(describe_changes(compare_sets(own, there, CLASSES, "malignant"), own, "test part"))
    assert "sensitivity malignant" in lines and "not defined here: not comparable" in lines
    few = compare_sets(own.assign(group=0), predictions(1), CLASSES, "malignant")
    assert "too few patients" in describe_changes(few, own, "test part")[1]
