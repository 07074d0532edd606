"""A report says how many patients a sensitivity would need. Covers busfast/results/limits.py, with test_report.py."""

import numpy as np
import pytest

from busfast.results.limits import groups_needed


def test_of_one_image_a_patient_it_is_the_textbook_number():
    right = np.arange(10_000) % 10 > 0  # a sensitivity of .9
    assert groups_needed(right, np.arange(10_000)) == pytest.approx(1.96**2 * 0.9 * 0.1 / 0.05**2, abs=1)
    assert groups_needed(right, np.arange(10_000), 0.1) == pytest.approx(1.96**2 * 0.9 * 0.1 / 0.1**2, abs=1)


def test_images_that_are_alike_add_nothing_and_others_do():
    rng = np.random.default_rng(0)
    right = rng.random(3000) < 0.8
    patients = groups_needed(right, np.arange(3000))
    assert groups_needed(np.repeat(right, 4), np.repeat(np.arange(3000), 4)) == pytest.approx(patients, rel=0.01)
    unlike = groups_needed(rng.random(12_000) < 0.8, np.repeat(np.arange(3000), 4))
    assert unlike == pytest.approx(patients / 4, rel=0.1)


def test_so_many_patients_give_the_interval_that_was_asked_for():
    """Patients with one to five images, half of whose answers are the patient's own."""
    rng = np.random.default_rng(1)

    def draw(count):
        groups = np.repeat(np.arange(count), rng.integers(1, 6, count))
        own = (rng.random(count) < 0.75)[groups]
        return np.where(rng.random(len(groups)) < 0.5, own, rng.random(len(groups)) < 0.75), groups

    needed = groups_needed(*draw(2000))
    shares = [draw(needed)[0].mean() for _ in range(2000)]
    assert 1.96 * np.std(shares) == pytest.approx(0.05, rel=0.1)


@pytest.mark.parametrize("right", [[True], [False], [True] * 5])
def test_a_share_of_few_patients_that_was_all_right_or_wrong_is_not_taken_for_certain(right):
    right = np.array(right)
    assert groups_needed(right, np.arange(len(right))) > 100
    assert groups_needed(right, np.zeros(len(right))) > 100
