"""Patients, not images, are drawn."""

import numpy as np

from busfast.results.bootstrap import draw_weights


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
    drawn = np.concatenate(list(draw_weights(groups, labels, 200)))
    assert drawn.std(0).min() > 0.5


def test_a_hundred_thousand_predictions_are_scored_in_bounded_memory():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 100_000)
    widest = max(len(weights) for weights in draw_weights(np.arange(100_000), labels, 100))
    assert widest * 100_000 <= 4_000_000
