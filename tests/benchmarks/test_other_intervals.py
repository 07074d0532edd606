"""Other intervals are computed as their sources say, on the sets of coverage.py.

Covers benchmarks/other_intervals.py.
"""

import coverage
import numpy as np
import other_intervals
import pytest
from scipy.stats import binomtest, bootstrap
from sklearn.metrics import roc_auc_score

from busfast.results.delong import delong


def make(setting: str, patients: int) -> tuple[np.ndarray, ...]:
    labels, probabilities, _, groups = coverage.simulate(
        np.random.default_rng(1), patients, *coverage.SETTINGS[setting])
    return labels, probabilities, groups


def test_scores_and_variances_are_those_of_scikit_learn_and_delong():
    labels, probabilities, groups = make("several images", 60)
    found = other_intervals.estimates(labels, probabilities, groups)
    counts = np.random.default_rng(0).integers(0, 3, (4, 60)).astype(float)
    weights = counts[:, groups]
    values = {name: of(counts)[0] for name, of in found.items()}
    right = probabilities.argmax(1) == labels
    for row, weight in enumerate(weights):
        assert values["auc_malignant"][row] == pytest.approx(
            roc_auc_score(labels == 2, probabilities[:, 2], sample_weight=weight))
        assert values["sensitivity_malignant"][row] == pytest.approx(np.average(right, weights=weight * (labels == 2)))
        assert values["accuracy"][row] == pytest.approx(np.average(right, weights=weight))
    (value,), (variance,) = found["auc_malignant"](np.ones((1, 60)))
    estimate, low, high = delong(labels == 2, probabilities[:, 2], groups)
    assert value == pytest.approx(estimate)
    assert variance**0.5 == pytest.approx((high - low) / 2 / other_intervals.Z, rel=0.05)  # it corrects by class


def test_intervals_of_a_share_of_independent_patients_are_those_of_scipy():
    right = np.arange(50) < 40
    value, variance = 0.8, 0.8 * 0.2 / 50
    low, high = other_intervals.wilson(value, variance)
    assert (low, high) == pytest.approx(tuple(binomtest(40, 50).proportion_ci(method="wilson")))
    rng = np.random.default_rng(0)
    counts = np.stack([np.bincount(rng.integers(0, 50, 50), minlength=50) for _ in range(4000)]).astype(float)
    draws, variances = other_intervals.share(right, np.ones(50), np.eye(50), counts)
    left_out = other_intervals.share(right, np.ones(50), np.eye(50), 1 - np.eye(50))[0]
    for method, bound in (("BCa", other_intervals.bca), ("percentile", other_intervals.percentiles)):
        expected = bootstrap((right,), np.mean, n_resamples=4000, method=method, random_state=0).confidence_interval
        assert bound(value, variance, draws, variances, left_out) == pytest.approx(expected, abs=0.02)
    low, high = other_intervals.studentized(value, variance, draws, variances)
    assert 0.6 < low < 0.7 and 0.88 < high < 0.92


def test_every_score_has_a_row_of_each_method(tmp_path, monkeypatch):
    monkeypatch.setattr(other_intervals, "PATIENTS", (40,))
    monkeypatch.setattr(other_intervals, "SETTINGS", {"even": coverage.SETTINGS["even"]})
    monkeypatch.setattr(other_intervals, "LARGE", 4000)
    rows = other_intervals.run(tmp_path, 20).rows.set_index("name")
    assert len(rows) == 3 * (len(other_intervals.METHODS) + 1)
    assert rows["lowest_40"].between(0.6, 1).all() and rows["width_40"].between(0.02, 0.8).all()
    assert rows.at["accuracy, busfast", "width_40"] > rows.at["accuracy, percentiles of draws", "width_40"]
