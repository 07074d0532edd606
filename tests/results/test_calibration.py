"""Temperature, thresholds and referral agree with simulated truth and with cases counted by hand."""

import numpy as np
import pytest

from busfast.results.calibration import calibrate, choose_threshold, fit_temperature, operate, refer
from results.simulated import simulate_predictions


def test_the_temperature_is_found_and_changes_no_decision():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 3)) * 2
    labels = np.array([rng.choice(3, p=row) for row in calibrate(logits, 1)])
    assert fit_temperature(3 * logits, labels) == pytest.approx(3, rel=0.08)
    assert (calibrate(logits, 3).argmax(1) == logits.argmax(1)).all()


def test_a_threshold_reaches_its_target_and_no_higher_one_does():
    positive = np.array([True] * 10 + [False] * 5)
    values = np.r_[np.linspace(0.1, 1, 10), np.linspace(0, 0.9, 5)]
    for target, wanted in ((0.9, 0.2), (0.95, 0.1), (1.0, 0.1), (0.5, 0.6)):
        assert choose_threshold(positive, values, target) == pytest.approx(wanted)


def test_an_operating_point_is_what_is_counted_by_hand():
    positive = np.array([True, True, True, False, False, False, False])
    values = np.array([0.9, 0.8, 0.1, 0.9, 0.2, 0.1, 0.1])
    found = operate(positive, values, 0.8, np.arange(7))["estimate"]
    assert found.to_dict() == pytest.approx({"sensitivity": 2 / 3, "specificity": 3 / 4, "ppv": 2 / 3, "npv": 3 / 4})


def test_referring_the_unsure_leaves_fewer_errors():
    labels, probabilities, _ = simulate_predictions(600, 3)
    found = refer((labels, probabilities), (labels, probabilities), np.arange(600))
    assert found["coverage"].tolist() == pytest.approx(found["wanted"].tolist(), abs=0.01)
    assert found["error"].is_monotonic_decreasing and (found["low"] <= found["error"]).all()
    sure = np.eye(3)[labels]  # never wrong, which 600 images cannot prove
    found = refer((labels, sure), (labels, sure), np.arange(600))
    assert found["high"].iloc[0] == pytest.approx(0.0064, abs=1e-4)
