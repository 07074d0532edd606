"""Intervals hold the truth as often as they claim; patients, not images, are drawn."""

from functools import partial

import numpy as np
import pandas as pd
import pytest

from busfast.results.bootstrap import draw_weights, intervals, widen
from busfast.results.scores import score
from results.simulated import simulate_predictions


def test_drawing_keeps_groups_whole_and_strata_as_large_as_they_are():
    groups = np.repeat(np.arange(12), 2)  # two images each, six groups a stratum
    strata = np.repeat([0, 1], 12)
    drawn = np.concatenate(list(draw_weights(groups, strata, 500, seed=1)))
    assert drawn.shape == (500, 24) and (drawn[:, ::2] == drawn[:, 1::2]).all()
    assert (drawn[:, :12:2].sum(1) == 6).all() and (drawn[:, 12::2].sum(1) == 6).all()
    assert set(drawn[:, 0]) >= {0, 1, 2, 3}
    again = np.concatenate(list(draw_weights(groups, strata, 500, seed=1)))
    assert (drawn == again).all()


def test_a_center_of_few_patients_is_not_taken_for_certain():
    """Six patients, each with labels of its own kind: drawn within such strata, nothing would ever vary."""
    groups = np.repeat(np.arange(6), 10)
    labels = np.concatenate([rng.permutation(kind) for rng in [np.random.default_rng(0)] for kind in (
        [0] * 10, [1] * 10, [2] * 10, [0] * 5 + [1] * 5, [0] * 5 + [2] * 5, [0] * 4 + [1] * 3 + [2] * 3)])
    probabilities = simulate_predictions(60, 0)[1]
    drawn = np.concatenate(list(draw_weights(groups, labels, 200)))
    assert drawn.std(0).min() > 0.5
    one = np.where(groups == 0, 1, 0)  # one patient has every image of its class: no interval, rather than a point
    found = intervals(partial(score, one, probabilities[:, :2] / probabilities[:, :2].sum(1, keepdims=True),
                              classes=("no", "yes")), groups, one, 500)
    assert 0 < found.at["sensitivity_yes", "estimate"] < 1 and np.isnan(found.at["sensitivity_yes", "low"])


def test_intervals_hold_the_truth_in_about_95_of_100_simulated_sets():
    rng = np.random.default_rng(0)
    truth = {"accuracy": 0.0, "auc_yes": 0.0}
    big = simulate(rng, 40_000)
    truth = {name: score(*big[:2], np.ones((1, len(big[0]))), ("no", "yes"))[name][0] for name in truth}
    held, sets = dict.fromkeys(truth, 0), 300
    for number in range(sets):
        labels, probabilities, groups = simulate(rng, 60)
        found = intervals(partial(score, labels, probabilities, classes=("no", "yes")), groups, labels, 400, number)
        for name, value in truth.items():
            held[name] += found.at[name, "low"] <= value <= found.at[name, "high"]
    # 300 sets: 95% is known to within 2.5 points; percentile intervals of 60 patients are a little narrow.
    assert all(0.90 <= count / sets <= 0.99 for count in held.values()), held


def test_intervals_that_take_images_for_independent_are_too_narrow():
    """The check above can fail: the images of a patient are alike, and forgetting it is noticed."""
    rng = np.random.default_rng(0)
    big = simulate(rng, 40_000)
    truth = score(*big[:2], np.ones((1, len(big[0]))), ("no", "yes"))["auc_yes"][0]
    held = 0
    for number in range(200):
        labels, probabilities, _ = simulate(rng, 60)
        found = intervals(partial(score, labels, probabilities, classes=("no", "yes")), np.arange(len(labels)), labels,
                          300, number)
        held += found.at["auc_yes", "low"] <= truth <= found.at["auc_yes", "high"]
    assert held / 200 < 0.88


def simulate(rng, patients):
    """Patients of 4 images each, half of them positive; the images of a patient look much alike."""
    of = np.arange(patients) % 2
    own = rng.normal(size=patients) + 1.4 * of
    values = np.repeat(own, 4) + 0.3 * rng.normal(size=4 * patients)
    positive = 1 / (1 + np.exp(-(values - 0.7)))
    return np.repeat(of, 4), np.stack([1 - positive, positive], 1), np.repeat(np.arange(patients), 4)


def test_a_share_of_all_or_none_has_an_interval_of_more_than_one_point():
    found = pd.DataFrame({"estimate": [1.0, 0.0, 0.5], "low": [1.0, 0.0, 0.3], "high": [1.0, 0.0, 0.7]},
                         index=["a", "b", "c"])
    found = widen(found, {"a": 8, "b": 8, "c": 8, })
    assert found.loc["a", ["low", "high"]].tolist() == pytest.approx([0.6756, 1.0], abs=1e-3)  # Wilson's, 8 of 8
    assert found.loc["b", ["low", "high"]].tolist() == pytest.approx([0.0, 0.3244], abs=1e-3)
    assert found.loc["c", ["low", "high"]].tolist() == [0.3, 0.7]


def test_a_hundred_thousand_predictions_are_scored_in_bounded_memory():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 100_000)
    widest = max(len(weights) for weights in draw_weights(np.arange(100_000), labels, 100))
    assert widest * 100_000 <= 4_000_000
