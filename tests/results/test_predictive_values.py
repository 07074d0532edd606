"""Predictive values follow from sensitivity, specificity and prevalence by Bayes' rule, with intervals that hold."""

import numpy as np
import pytest

from busfast.errors import UserError
from busfast.results.calibration import operate
from busfast.results.predictive_values import PREVALENCES, check_prevalences, predictive_values


def draw(rng, count, prevalence, hit, alarm, each=1):
    """Labels, calls and groups of images, `each` of a patient, whose calls are mostly alike."""
    positive = np.repeat(rng.random(count) < prevalence, each)
    chance = np.repeat(rng.random(count), each)
    chance = np.where(rng.random(count * each) < 0.3, rng.random(count * each), chance)
    return positive, (chance < np.where(positive, hit, alarm)).astype(float), np.repeat(np.arange(count), each)


def test_at_the_sets_own_prevalence_they_are_its_ppv_and_npv():
    positive, called, groups = draw(np.random.default_rng(0), 200, 0.3, 0.8, 0.2)
    table = predictive_values(positive, called, 0.5, groups, (positive.mean(), 0.01)).set_index(["prevalence", "score"])
    plain = operate(positive, called, 0.5, groups)
    for score in ("ppv", "npv"):
        assert table.loc[(positive.mean(), score), "estimate"] == pytest.approx(plain.loc[score, "estimate"])
    hit, passed = plain.loc["sensitivity", "estimate"], plain.loc["specificity", "estimate"]
    assert table.loc[(0.01, "ppv"), "estimate"] == pytest.approx(
        0.01 * hit / (0.01 * hit + 0.99 * (1 - passed)))
    assert table.loc[(0.01, "npv"), "estimate"] == pytest.approx(
        0.99 * passed / (0.99 * passed + 0.01 * (1 - hit)))
    assert (table["low"] < table["estimate"]).all() and (table["estimate"] < table["high"]).all()


@pytest.mark.parametrize("each", [1, 3])
def test_the_intervals_hold_the_truth_at_another_prevalence(each):
    rng, prevalence, hit, alarm = np.random.default_rng(each), 0.02, 0.85, 0.2
    truth = {"ppv": prevalence * hit / (prevalence * hit + (1 - prevalence) * alarm),
             "npv": (1 - prevalence) * (1 - alarm) / ((1 - prevalence) * (1 - alarm) + prevalence * (1 - hit))}
    held = {score: [] for score in truth}
    for _ in range(200):
        table = predictive_values(*_reorder(draw(rng, 60, 0.4, hit, alarm, each)), (prevalence,)).set_index("score")
        for score, value in truth.items():
            held[score].append(table.loc[score, "low"] <= value <= table.loc[score, "high"])
    assert {score: np.mean(hits) > 0.91 for score, hits in held.items()} == {"ppv": True, "npv": True}, held


def _reorder(drawn):
    positive, called, groups = drawn
    return positive, called, 0.5, groups


def test_one_positive_patient_gives_no_interval_and_no_positive_one_no_value():
    called, groups = np.array([1.0, 1, 0, 0, 1, 0]), np.array(["a", "a", "b", "c", "d", "e"])
    one = predictive_values(np.array([True, True, False, False, False, False]), called, 0.5, groups)
    assert one["estimate"].notna().all() and one["low"].isna().all() and len(one) == 2 * len(PREVALENCES)
    assert predictive_values(np.zeros(6, bool), called, 0.5, groups)["estimate"].isna().all()


def test_prevalences_are_shares_in_any_writing():
    assert check_prevalences(".05, 0.01,.05") == (0.01, 0.05)
    assert check_prevalences([0.1]) == check_prevalences(0.1) == (0.1,)
    assert check_prevalences(None) == check_prevalences("") == PREVALENCES
    for wrong in ("0", "1", "5", "-.1", "1%", "nan", "high"):
        with pytest.raises(UserError, match=f"prevalence={wrong} is no list of shares: .* such as 0.01,0.05"):
            check_prevalences(wrong)
