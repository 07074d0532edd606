"""DeLong's interval of an AUC equals its definition over all pairs of images, by images and by patients."""

import numpy as np
import pytest
from scipy.stats import norm

from busfast.results.delong import delong
from results.simulated import simulate_predictions


def by_pairs(positive, values, groups):
    """AUC and standard error as Obuchowski 1997 defines them: over all pairs, patient after patient."""
    ours, others = values[positive], values[~positive]
    right = (ours[:, None] > others) + 0.5 * (ours[:, None] == others)
    auc, count, rest = right.mean(), *right.shape
    patients = sorted(set(groups))
    hits = [sum(right[groups[positive] == one].mean(1) - auc) for one in patients]
    passes = [sum(right[:, groups[~positive] == one].mean(0) - auc) for one in patients]
    holders = [len(set(groups[of])) for of in (positive, ~positive)]
    s10, s01 = (k / (k - 1) / n * sum(one**2 for one in sums)
                for k, n, sums in zip(holders, (count, rest), (hits, passes), strict=True))
    s11 = len(patients) / (len(patients) - 1) * sum(a * b for a, b in zip(hits, passes, strict=True))
    return auc, np.sqrt(s10 / count + s01 / rest + 2 * s11 / (count * rest))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("each", [1, 3])  # images of a patient
def test_the_interval_is_that_of_the_definition(ties, each):
    labels, probabilities, _ = simulate_predictions(120, 1, ties)
    positive, values, groups = labels == 2, probabilities[:, 2].round(12), np.arange(120) // each
    auc, error = by_pairs(positive, values, groups)
    half = norm.ppf(0.975) * error
    assert delong(positive, values, groups) == pytest.approx((auc, auc - half, auc + half), abs=1e-12)
    if each == 1:  # DeLong's own: variances of the shares of pairs
        right = (values[positive][:, None] > values[~positive]) + 0.5 * (values[positive][:, None] == values[~positive])
        variance = right.mean(1).var(ddof=1) / positive.sum() + right.mean(0).var(ddof=1) / (~positive).sum()
        assert error**2 == pytest.approx(variance)


def test_copies_of_images_make_the_interval_by_patients_no_shorter():
    labels, probabilities, _ = simulate_predictions(100, 2)
    positive, values = labels == 2, probabilities[:, 2]
    once = delong(positive, values, np.arange(100))
    tripled = delong(np.tile(positive, 3), np.tile(values, 3), np.tile(np.arange(100), 3))
    assert tripled == pytest.approx(once)
    assert delong(np.tile(positive, 3), np.tile(values, 3), np.arange(300))[1] > once[1] + 0.02


def test_an_auc_without_a_class_is_not_defined_and_of_one_positive_patient_has_no_interval():
    values, groups = np.array([0.9, 0.8, 0.3, 0.2, 0.1, 0.4]), np.array(["a", "a", "b", "c", "d", "e"])
    assert np.isnan(delong(np.zeros(6, bool), values, groups)).all()
    auc, *bounds = delong(np.array([True, True, False, False, False, False]), values, groups)
    assert auc == 1 and np.isnan(bounds).all()
