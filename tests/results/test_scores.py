"""Scores agree with scikit-learn's and with small cases counted by hand."""

import numpy as np
import pytest
from sklearn import metrics as sk

from busfast.results.scores import names, score
from results.simulated import CLASSES, simulate_predictions


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_scores_are_those_of_scikit_learn_for_any_weights(seed, ties):
    labels, probabilities, weights = simulate_predictions(80, seed, ties)
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


def roc_auc(labels, probabilities, rows, k):
    return sk.roc_auc_score(labels[rows] == k, probabilities[rows, k])


def test_a_score_that_is_not_defined_is_nan_and_the_others_are_not():
    labels, probabilities, _ = simulate_predictions(30, 0)
    only_two = labels != 2
    found = score(labels[only_two], probabilities[only_two], np.ones((1, only_two.sum())), CLASSES)
    undefined = {name for name, value in found.items() if np.isnan(value[0])}
    assert {"macro_auc", "macro_ap", "balanced_accuracy", "auc_malignant", "ap_malignant",
            "sensitivity_malignant"} <= undefined
    both = [roc_auc(labels, probabilities, only_two, k) for k in (0, 1)]
    assert found["macro_auc_present"][0] == pytest.approx(np.mean(both))
    assert found["balanced_accuracy_present"][0] == pytest.approx(
        sk.balanced_accuracy_score(labels[only_two], probabilities[only_two].argmax(1)))
    assert not undefined & {"accuracy", "auc_normal", "sensitivity_normal", "specificity_malignant", "brier", "ece"}
