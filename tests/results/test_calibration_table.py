"""The table says how right probabilities are; a temperature that does not help, or rests on few, is told."""

import numpy as np
import pandas as pd
import pytest

from busfast.results.calibration import calibrate
from busfast.results.calibration_table import CHANGE, calibration_table, describe_temperature
from results.simulated import CLASSES, simulate_predictions

STATES = [("as trained", "p_"), ("calibrated", "c_")]


def predictions(temperature, n=400, part="test"):
    """Right probabilities before, and others after, a temperature."""
    rng = np.random.default_rng(0)
    logits = 1.5 * rng.normal(size=(n, 3))
    labels = np.array([rng.choice(3, p=row) for row in calibrate(logits, 1)])
    table = pd.DataFrame({"part": part, "label": np.array(CLASSES)[labels], "group": np.arange(n)})
    for prefix, values in (("p_", calibrate(logits, 1)), ("c_", calibrate(logits, temperature))):
        table = table.join(pd.DataFrame(values, columns=[f"{prefix}{name}" for name in CLASSES]))
    return table


def describe(table, valid):
    return describe_temperature(calibration_table(table, CLASSES, STATES, CLASSES), valid, 1.5, "test", "test part")


def test_right_probabilities_have_intercept_0_and_slope_1_and_a_temperature_divides_the_slope():
    table = calibration_table(predictions(2.0, 2000), CLASSES, STATES, ("malignant",)).set_index(
        ["probabilities", "score"])
    assert {name for _, name in table.index} == {"brier", "ece", "intercept_malignant", "slope_malignant"}
    assert table.loc[("as trained", "intercept_malignant"), "low"] < 0 < \
        table.loc[("as trained", "intercept_malignant"), "high"]
    slopes = [table.loc[(state, "slope_malignant")] for state, _ in STATES]
    assert slopes[0]["low"] < 1 < slopes[0]["high"] and slopes[1]["low"] > 1.4
    assert table.loc[(CHANGE, "brier"), "low"] > 0
    assert table.loc[(CHANGE, "brier"), "estimate"] == pytest.approx(
        table.loc[("calibrated", "brier"), "estimate"] - table.loc[("as trained", "brier"), "estimate"])
    assert table.xs("ece", level="score")[["low", "high"]].isna().all(axis=None)
    bare = calibration_table(predictions(2.0, 2000), CLASSES, STATES, ("malignant",), with_intervals=False)
    assert bare[["low", "high"]].isna().all(axis=None)
    assert np.array_equal(bare["estimate"], table["estimate"])


@pytest.mark.parametrize(("temperature", "words"), [(4.0, "worsened the test"), (1.0, "is not shown to improve the")])
def test_a_temperature_that_did_not_help_is_told(temperature, words):
    text, = describe(predictions(temperature), predictions(1.0, part="valid"))
    assert "1.50, fitted on 400 validation images of 400 groups" in text and words in text


def test_a_temperature_that_helped_is_told_and_few_patients_that_fitted_it_too():
    table = predictions(4.0).rename(columns=lambda name: {"p_": "c_", "c_": "p_"}.get(name[:2], name[:2]) + name[2:])
    text, few = describe(table, predictions(1.0, n=40, part="valid"))
    assert "improved the test part's calibration" in text and "of 40 groups" in text
    assert few.startswith("40 groups are few to fit a temperature on")
    text, = describe(table[:39], table[:0])
    assert "of the bundle, cannot be shown to improve" in text and "(too few patients)" in text


def test_the_change_of_the_brier_score_holds_the_truth_in_93_of_100_sets_or_more():
    rng, sets, held = np.random.default_rng(3), 100, 0
    many = predictions(1.3, 40_000)
    truth = calibration_table(many, CLASSES, STATES, (), False).set_index("probabilities").loc[CHANGE, "estimate"]
    for _ in range(sets):
        row = calibration_table(many.iloc[rng.integers(0, len(many), 60)].reset_index(drop=True), CLASSES, STATES,
                                ()).set_index("probabilities").loc[CHANGE]
        held += row["low"] <= truth <= row["high"]
    assert held >= 0.93 * sets


def test_labels_and_probabilities_of_other_tables_give_the_same_brier_score():
    labels, probabilities, _ = simulate_predictions(50, 1)
    table = pd.DataFrame({"part": "test", "label": np.array(CLASSES)[labels], "group": np.arange(50)}).join(
        pd.DataFrame(probabilities, columns=[f"p_{name}" for name in CLASSES]))
    found = calibration_table(table, CLASSES, STATES[:1], CLASSES).set_index("score")["estimate"]
    wanted = ((probabilities - np.eye(3)[labels]) ** 2).sum(1).mean()
    assert found["brier"] == pytest.approx(wanted) and CHANGE not in found.index
