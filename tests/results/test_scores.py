"""Scores agree with scikit-learn's and with small cases counted by hand; intervals hold the truth as often as said."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from busfast.results.bootstrap import draw_weights, intervals, widen
from busfast.results.calibration import calibrate, choose_threshold, fit_temperature, operate, refer
from busfast.results.metrics import assess, by_patient
from busfast.results.scores import names, score

CLASSES = ("normal", "benign", "malignant")


def made(n, seed, ties=False):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    logits = rng.normal(size=(n, 3)) + 1.2 * np.eye(3)[labels]
    if ties:
        logits = np.round(logits)
    return labels, calibrate(logits, 1), rng.integers(0, 4, n)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_scores_are_those_of_scikit_learn_for_any_weights(seed, ties):
    labels, probabilities, weights = made(80, seed, ties)
    found = {name: value[1] for name, value in score(labels, probabilities, np.stack([np.ones(80), weights]),
                                                     CLASSES).items()}
    predicted, how = probabilities.argmax(1), {"sample_weight": weights}
    wanted = {
        "macro_auc": np.mean([sk.roc_auc_score(labels == k, probabilities[:, k], **how) for k in range(3)]),
        "accuracy": sk.accuracy_score(labels, predicted, **how),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, predicted, **how),
        "macro_ap": np.mean([sk.average_precision_score(labels == k, probabilities[:, k], **how) for k in range(3)]),
        "macro_f1": sk.f1_score(labels, predicted, average="macro", **how),
        "mcc": sk.matthews_corrcoef(labels, predicted, **how),
    }
    for k, name in enumerate(CLASSES):
        of, called = labels == k, predicted == k
        wanted |= {
            f"auc_{name}": sk.roc_auc_score(of, probabilities[:, k], **how),
            f"ap_{name}": sk.average_precision_score(of, probabilities[:, k], **how),
            f"sensitivity_{name}": sk.recall_score(of, called, **how),
            f"specificity_{name}": sk.recall_score(~of, ~called, **how),
            f"ppv_{name}": sk.precision_score(of, called, **how),
            f"npv_{name}": sk.precision_score(~of, ~called, **how), f"f1_{name}": sk.f1_score(of, called, **how)}
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, abs=1e-12)
    assert set(found) - set(wanted) == {"brier", "ece"} and list(found) == names(CLASSES)


def test_brier_and_calibration_error_are_those_counted_by_hand():
    labels = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.8, 0.2], [0.8, 0.2], [0.8, 0.2], [0.1, 0.9]])
    found = score(labels, probabilities, np.ones((1, 4)), ("no", "yes"))
    # wrong by .2 twice, by .8 once, by .1 once, squared, in both classes
    assert found["brier"][0] == pytest.approx(2 * (0.04 + 0.04 + 0.64 + 0.01) / 4)
    # of three that are 80% sure, two are right; one that is 90% sure is right
    assert found["ece"][0] == pytest.approx((3 * (0.8 - 2 / 3) + 1 * (1 - 0.9)) / 4)


def test_a_score_that_is_not_defined_is_nan_and_the_others_are_not():
    labels, probabilities, _ = made(30, 0)
    only_two = labels != 2
    found = score(labels[only_two], probabilities[only_two], np.ones((1, only_two.sum())), CLASSES)
    undefined = {name for name, value in found.items() if np.isnan(value[0])}
    assert {"macro_auc", "macro_ap", "balanced_accuracy", "auc_malignant", "ap_malignant",
            "sensitivity_malignant"} <= undefined
    assert not undefined & {"accuracy", "auc_normal", "sensitivity_normal", "specificity_malignant", "brier", "ece"}


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
    probabilities = made(60, 0)[1]
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
    found = operate(positive, values, 0.8, np.arange(7), positive)["estimate"]
    assert found.to_dict() == pytest.approx({"sensitivity": 2 / 3, "specificity": 3 / 4, "ppv": 2 / 3, "npv": 3 / 4})


def test_referring_the_unsure_leaves_fewer_errors():
    labels, probabilities, _ = made(600, 3)
    found = refer((labels, probabilities), (labels, probabilities), np.arange(600), labels)
    assert found["coverage"].tolist() == pytest.approx(found["wanted"].tolist(), abs=0.01)
    assert found["error"].is_monotonic_decreasing and (found["low"] <= found["error"]).all()
    sure = np.eye(3)[labels]  # never wrong, which 600 images cannot prove
    found = refer((labels, sure), (labels, sure), np.arange(600), labels)
    assert found["high"].iloc[0] == pytest.approx(0.0064, abs=1e-4)


def predictions(n=120, seed=0):
    labels, probabilities, _ = made(n, seed)
    table = pd.DataFrame({"image": [f"{number}.png" for number in range(n)], "part": "test",
                          "center": np.where(np.arange(n) % 3 == 0, "north", "south"), "device": "",
                          "patient": [f"p{number // 2}" for number in range(n)],
                          "label": np.array(CLASSES)[labels]})
    table["group"] = "patient " + table["patient"]
    return table.assign(**{f"p_{name}": probabilities[:, k] for k, name in enumerate(CLASSES)})


def test_a_patient_has_the_mean_of_its_images():
    table = predictions(4).assign(label="benign", center="north")
    found = by_patient(table, CLASSES)
    assert found["patient"].tolist() == ["p0", "p1"]
    assert found["p_benign"].tolist() == pytest.approx([table["p_benign"][:2].mean(), table["p_benign"][2:].mean()])


def test_every_center_has_its_scores_and_one_without_a_class_or_of_one_image_is_said_so():
    table = predictions()
    table.loc[(table["center"] == "north") & (table["label"] == "malignant"), "label"] = "benign"
    lone = table[:1].assign(image="lone.png", center="lone", group="lone")
    found = assess(pd.concat([table, lone], ignore_index=True), CLASSES).set_index(["by", "value", "score"])
    assert set(found.loc["center"].index.get_level_values(0)) == {"north", "south", "lone"}
    assert np.isnan(found.loc[("center", "north", "macro_auc"), "estimate"])
    assert found.loc[("center", "south", "macro_auc"), "low"] < found.loc[("center", "south", "macro_auc"), "high"]
    assert np.isnan(found.loc[("center", "lone", "accuracy"), "low"]) or \
        found.loc[("center", "lone", "accuracy"), "estimate"] in (0, 1)
    known = found.dropna()
    assert (known["low"] <= known["estimate"]).all() and (known["estimate"] <= known["high"]).all()
    assert found.loc[("all", "", "macro_auc"), "images"] == 121 and found.loc[("all", "", "macro_auc"), "groups"] == 61
    assert "device" not in found.index.get_level_values(0)  # there is but one
