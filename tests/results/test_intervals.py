"""Intervals hold the truth as often as they claim, of few patients and of many, of one model and of two."""

from functools import partial

import numpy as np
import pytest

from busfast.results.bootstrap import draw_weights
from busfast.results.intervals import BLOCKS, CELLS, differences, intervals, jackknife, leave_out
from busfast.results.metrics import fewest_groups
from busfast.results.scores import score

CLASSES = ("no", "yes")
SHOWN = ("auc_yes", "sensitivity_yes", "ppv_yes", "accuracy", "brier")


def simulate(rng, patients, gap=1.4):
    """Patients of 4 images each, half of them positive; the images of a patient look much alike."""
    of = np.arange(patients) % 2
    own = rng.normal(size=patients) + gap * of
    values = np.repeat(own, 4) + 0.3 * rng.normal(size=4 * patients)
    return np.repeat(of, 4), to_probabilities(values - gap / 2), np.repeat(np.arange(patients), 4)


def to_probabilities(values):
    positive = 1 / (1 + np.exp(-values))
    return np.stack([1 - positive, positive], 1)


def measure_of(labels, probabilities):
    return partial(score, labels, probabilities, classes=CLASSES)


def truths(labels, probabilities):
    return {name: values[0] for name, values in
            score(labels, probabilities, np.ones((1, len(labels))), CLASSES).items()}


@pytest.mark.parametrize("patients, gap", [(10, 1.4), (20, 3.5), (60, 1.4)])
def test_intervals_hold_the_truth_in_93_of_100_simulated_sets_or_more(patients, gap):
    rng, sets = np.random.default_rng(patients), 150
    truth, held = truths(*simulate(rng, 40_000, gap)[:2]), dict.fromkeys(SHOWN, 0)
    for _ in range(sets):
        labels, probabilities, groups = simulate(rng, patients, gap)
        fewest = fewest_groups(labels, probabilities.argmax(1), groups, CLASSES)
        found = intervals(measure_of(labels, probabilities), groups, fewest).loc[list(SHOWN)]
        for name in SHOWN:
            low, high = found.loc[name, ["low", "high"]]
            held[name] += np.isnan(low) or low <= truth[name] <= high
    assert min(held.values()) >= 0.93 * sets, held


@pytest.mark.parametrize("unit", ["patients drawn again", "images for independent"])
def test_what_is_too_narrow_is_noticed(unit):
    """The check above can fail: by draws of patients and their quantiles, and where all images count as patients."""
    rng, sets, held = np.random.default_rng(0), 100, 0
    truth = truths(*simulate(rng, 40_000)[:2])["auc_yes"]
    for _ in range(sets):
        labels, probabilities, groups = simulate(rng, 10)
        measure = measure_of(labels, probabilities)
        if unit == "patients drawn again":
            drawn = np.concatenate([measure(weights)["auc_yes"] for weights in draw_weights(groups, labels, 300)])
            low, high = np.quantile(drawn, [0.025, 0.975])
        else:
            low, high = intervals(measure, np.arange(len(labels))).loc["auc_yes", ["low", "high"]]
        held += low <= truth <= high
    assert held < 0.9 * sets


def test_differences_of_two_models_on_the_same_images_hold_the_truth_and_are_narrower_than_of_others():
    rng, sets, held = np.random.default_rng(1), 100, dict.fromkeys(SHOWN[:2], 0)

    def both(patients):
        labels, first, groups = simulate(rng, patients)
        noise = np.repeat(rng.normal(size=patients), 4)
        second = to_probabilities(np.log(first[:, 1] / first[:, 0]) + 0.5 * noise)
        return [(measure_of(labels, one), groups, fewest_groups(labels, one.argmax(1), groups, CLASSES))
                for one in (first, second)]

    large = [measure(np.ones((1, len(groups)))) for measure, groups, _ in both(40_000)]
    widths = []
    for _ in range(sets):
        first, second = (jackknife(*one) for one in both(30))
        found = differences(first, second, True)
        if len(widths) < 10:
            widths.append([(table["high"] - table["low"])["auc_yes"] for table in (
                found, differences(first, second, False))])
        for name in held:
            held[name] += found.at[name, "low"] <= large[1][name][0] - large[0][name][0] <= found.at[name, "high"]
    assert min(held.values()) >= 0.93 * sets, held
    paired, unpaired = np.mean(widths, axis=0)
    assert paired < 0.7 * unpaired


def test_of_fewer_than_three_patients_with_a_class_nothing_that_needs_it_has_an_interval():
    labels, probabilities, groups = simulate(np.random.default_rng(0), 20)
    labels = np.where(groups < 2, 1, 0)
    fewest = fewest_groups(labels, probabilities.argmax(1), groups, CLASSES)
    found = intervals(measure_of(labels, probabilities), groups, fewest)["low"]
    assert np.isnan(found[["auc_yes", "macro_auc", "balanced_accuracy", "sensitivity_yes", "ap_yes", "ece"]]).all()
    assert found[["accuracy", "brier", "specificity_yes", "npv_yes"]].notna().all()


def test_a_share_of_all_or_none_has_an_interval_of_more_than_one_point():
    def measure(weights):
        return {"all": np.ones(len(weights)), "none": np.zeros(len(weights))}

    found = intervals(measure, np.arange(8))
    edge = 2.364624**2 / (8 + 2.364624**2)  # Wilson's, with t of 7 degrees of freedom
    assert found.loc["all", ["low", "high"]].tolist() == pytest.approx([1 - edge, 1], abs=1e-6)
    assert found.loc["none", ["low", "high"]].tolist() == pytest.approx([0, edge], abs=1e-6)


def test_a_score_has_the_range_that_it_can_have_whoever_is_left_out():
    labels, probabilities, groups = simulate(np.random.default_rng(0), 30)
    found = intervals(measure_of(labels, probabilities), groups).drop("ece")
    assert (found["low"] < found["estimate"]).all() and (found["estimate"] < found["high"]).all()
    assert found.drop(["mcc", "brier"])[["low", "high"]].stack().between(0, 1).all()
    wrong = intervals(measure_of(1 - labels, probabilities), groups)
    assert -1 <= wrong.at["mcc", "low"] < wrong.at["mcc", "high"] < 0
    assert 1 < wrong.at["brier", "high"] <= 2


def test_many_groups_are_left_out_in_blocks_and_in_bounded_memory():
    sizes, seen = [], []

    def measure(weights):
        sizes.append(weights.size)
        seen.append((weights == 0).sum(0))
        return {"mean": weights @ values / weights.sum(1)}

    values = np.random.default_rng(0).normal(0.5, 0.1, 10_000)
    assert len(leave_out(measure, np.arange(10_000))) == BLOCKS
    assert max(sizes) <= CELLS and (np.sum(seen, axis=0) == 1).all()
    found = intervals(measure, np.arange(10_000)).loc["mean"]
    # The floor of a share: half of 1.96 * sqrt(.25 / 20,000) to either side is far more than these values vary.
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * np.sqrt(0.25 / 20_000), rel=0.02)
