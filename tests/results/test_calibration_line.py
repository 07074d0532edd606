"""Intercept and slope are those of a logistic regression; their intervals hold the truth, or there is none."""

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from busfast.results.calibration_line import calibration_line


def simulate(rng, patients, intercept=0.0, slope=1.0, images=3):
    """Labels of patients whose true log odds are `intercept + slope * log odds`, and probabilities of their images."""
    groups = np.repeat(np.arange(patients), images)
    log_odds = rng.normal(scale=1.5, size=patients)
    positive = rng.random(patients) < expit(intercept + slope * log_odds)
    return positive[groups], expit(log_odds[groups] + rng.normal(scale=0.3, size=len(groups))), groups


def test_both_are_what_a_logistic_regression_finds():
    positive, probabilities, groups = simulate(np.random.default_rng(0), 300, 0.7, 0.6)
    found = calibration_line(positive, probabilities, groups)["estimate"]
    x = logit(probabilities)
    assert found["slope"] == pytest.approx(LogisticRegression(C=1e9, tol=1e-9).fit(x[:, None], positive).coef_[0, 0],
                                           abs=1e-4)
    assert expit(found["intercept"] + x).sum() == pytest.approx(positive.sum(), abs=1e-6)  # the likelihood's equation
    same = calibration_line(positive, expit(found["intercept"] + x), groups)["estimate"]
    assert same["intercept"] == pytest.approx(0, abs=1e-6)


def test_probabilities_that_are_too_low_or_too_extreme_are_told_by_intervals_that_exclude_what_is_right():
    found = calibration_line(*simulate(np.random.default_rng(1), 400, 0.8, 0.5))
    assert 0 < found.at["intercept", "low"] < found.at["intercept", "high"]
    assert found.at["slope", "low"] < found.at["slope", "estimate"] < found.at["slope", "high"] < 1


@pytest.mark.parametrize(("patients", "intercept", "slope"), [(30, 0.0, 1.0), (60, 0.5, 0.5)])
def test_intervals_hold_the_truth_in_93_of_100_simulated_sets_or_more(patients, intercept, slope):
    rng, sets = np.random.default_rng(patients), 150
    truth = calibration_line(*simulate(rng, 40_000, intercept, slope), False)["estimate"]
    held, by_images, count = dict.fromkeys(truth.index, 0), 0, dict.fromkeys(truth.index, 0)
    for _ in range(sets):
        positive, probabilities, groups = simulate(rng, patients, intercept, slope)
        found = calibration_line(positive, probabilities, groups)
        for name, row in found.dropna().iterrows():
            count[name] += 1
            held[name] += row["low"] <= truth[name] <= row["high"]
        row = calibration_line(positive, probabilities, np.arange(len(groups))).loc["intercept"]  # as if independent
        by_images += row["low"] <= truth["intercept"] <= row["high"]
    assert min(count.values()) > sets / 3
    assert all(held[name] >= 0.93 * count[name] for name in held), (held, count)
    assert by_images < 0.9 * sets  # what is too narrow is noticed


def test_where_nothing_can_be_said_nothing_is_said():
    positive, probabilities, groups = simulate(np.random.default_rng(0), 12, images=1)
    few = calibration_line(np.arange(12) < 2, probabilities, groups)
    assert few["estimate"].notna().all() and few[["low", "high"]].isna().all(axis=None)
    one = calibration_line(np.zeros(12, bool), probabilities, groups)
    assert one.isna().all(axis=None)
    apart = calibration_line(probabilities > 0.5, probabilities, groups)  # no slope is the most likely
    assert np.isnan(apart.at["slope", "estimate"]) and not np.isnan(apart.at["intercept", "estimate"])
    equal = calibration_line(positive, np.full(12, 0.3), groups)
    assert np.isnan(equal.at["slope", "estimate"])
    sure = calibration_line(np.arange(12) < 6, np.r_[np.zeros(5), np.ones(7)], groups)
    assert np.isfinite(sure.at["intercept", "estimate"])
