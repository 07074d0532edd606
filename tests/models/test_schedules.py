"""Learning rates rise, fall and differ between groups as the settings say."""

import numpy as np
import pytest

from busfast.models.schedules import SCHEDULES, cosine, make_schedule
from busfast.pipelines import config


def rates(schedule, shares):
    return [schedule.scheds["lr"](share) for share in shares]


def test_the_learning_rate_of_five_epochs_is_the_logged_one():
    assert [f"{rate:.2e}" for rate in rates(cosine(1e-3, 1e-6), [epoch / 5 for epoch in range(1, 6)])] == [
        "9.05e-04", "6.55e-04", "3.46e-04", "9.64e-05", "1.00e-06"]


def test_the_schedules_are_fastais_and_end_at_the_lowest_rate():
    found = {name: rates(make(1e-2, 1e-5), (0, 0.1, 0.25, 0.5, 0.75, 1)) for name, make in SCHEDULES.items()}
    assert all(values[-1] == pytest.approx(1e-5) for values in found.values())
    assert found["cosine"] == sorted(found["cosine"], reverse=True) and found["cosine"][0] == pytest.approx(1e-2)
    assert found["one_cycle"][0] == pytest.approx(1e-2 / 25) and max(found["one_cycle"]) == found["one_cycle"][2]
    assert found["flat_cos"][:4] == pytest.approx([1e-2] * 4)
    assert set(SCHEDULES) == set(config.SCHEDULES)


@pytest.mark.parametrize("name", ["cosine", "flat_cos"])
def test_a_warm_up_rises_in_a_line_and_the_schedule_follows_over_the_rest(name):
    warm, plain = make_schedule(name, 1e-2, 1e-5, warmup=0.2), make_schedule(name, 1e-2, 1e-5)
    assert rates(warm, (0, 0.1)) == pytest.approx([4e-4, 5.2e-3])
    assert rates(warm, (0.2, 0.6, 1, 1 + 1e-9)) == pytest.approx(rates(plain, (0, 0.5, 1, 1)))


def test_early_groups_have_lower_rates_evenly_spaced_as_fastais_slice():
    found = make_schedule("cosine", 1e-2, 1e-4, lr_mult=100, groups=3).scheds["lr"]
    assert np.allclose(found(0), [1e-4, 1e-3, 1e-2]) and np.allclose(found(1), [1e-6, 1e-5, 1e-4])
    assert make_schedule("cosine", 1e-2, 1e-4, lr_mult=100).scheds["lr"](0) == pytest.approx(1e-2)  # one group
