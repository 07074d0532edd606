"""The decision curve is net benefit as Vickers and Elkin define it, with a band by patients."""

import numpy as np
import pytest

from busfast.results.net_benefit import THRESHOLDS, decision_curve


def test_net_benefit_is_true_less_weighted_false_positives():
    positive = np.array([1, 1, 1, 0, 0, 0, 0, 0, 0, 0], bool)
    values = np.array([0.9, 0.6, 0.2, 0.7, 0.3, 0.1, 0.1, 0.1, 0.0, 0.0])
    curve = decision_curve(positive, values, np.arange(10)).set_index("threshold")
    assert curve.index.tolist() == THRESHOLDS.tolist()
    at = curve.loc[0.5]  # two found, one false alarm
    assert at["model"] == pytest.approx(2 / 10 - 1 / 10) and at["treat_all"] == pytest.approx(0.3 - 0.7)
    at = curve.loc[0.2]  # three found (a probability of just the threshold counts), two false alarms of 1/4 each
    assert at["model"] == pytest.approx(0.3 - 0.2 / 4) and at["treat_all"] == pytest.approx(0.3 - 0.7 / 4)
    assert (curve["treat_none"] == 0).all() and (curve["low"] <= curve["high"]).all()


def test_a_model_that_knows_gains_the_prevalence_and_one_that_does_not_is_no_better_than_the_others():
    rng = np.random.default_rng(0)
    positive, groups = rng.random(3000) < 0.3, np.arange(3000)
    assert np.allclose(decision_curve(positive, positive.astype(float), groups)["model"], positive.mean())
    blind = decision_curve(positive, np.full(3000, positive.mean()), groups)
    assert np.allclose(blind["model"], blind[["treat_all", "treat_none"]].max(axis=1), atol=1e-9)


def test_the_band_is_by_patients():
    rng = np.random.default_rng(1)
    positive = rng.random(60) < 0.4
    values = np.clip(rng.normal(0.3 + 0.3 * positive, 0.2), 0, 1)
    once = decision_curve(positive, values, np.arange(60))
    tripled = [np.tile(one, 3) for one in (positive, values, np.arange(60))]
    by_patient, by_image = decision_curve(*tripled), decision_curve(*tripled[:2], np.arange(180))
    wide, narrow = ((curve["high"] - curve["low"]).mean() for curve in (by_patient, by_image))
    assert wide == pytest.approx((once["high"] - once["low"]).mean(), rel=0.1) and narrow < 0.7 * wide
    assert ((once["low"] <= once["model"]) & (once["model"] <= once["high"])).mean() > 0.95


def test_one_positive_patient_gives_no_band_and_no_positive_one_no_curve():
    values, groups = np.linspace(0, 1, 8), np.array(list("aabcdefg"))
    curve = decision_curve(groups == "a", values, groups)
    assert curve["model"].notna().all() and curve[["low", "high"]].isna().all(axis=None)
    assert decision_curve(groups == "x", values, groups).empty
