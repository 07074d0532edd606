"""Threads that take the cores from each other are noticed, which changes nothing by itself, and reduced to one."""

from itertools import count

import pytest
import torch
from conftest import ARCH, SIZE

from busfast.models.learner import make_learner
from busfast.pipelines import ImagePipeline, make_dls
from busfast.training import threads
from busfast.training.threads import CHECKED, WASTE, GiveWay, cost


@pytest.fixture(autouse=True)
def two():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def fit(parts, tmp_path, monkeypatch):
    """Trains for at least 8 steps; returns how often the threads were measured, with these results."""
    def train(*measured, busy=2, sleep=False):
        dls = make_dls(parts, ImagePipeline(size=SIZE), bs=16, loader="torchvision", device="cpu")
        learn = make_learner(dls, ARCH, weights="none", path=tmp_path)
        values, calls = iter(measured), count()
        monkeypatch.setattr(threads, "BUSY", busy)
        monkeypatch.setattr(threads, "THREADS_SLEEP", sleep)
        monkeypatch.setattr(threads, "cost", lambda number: (next(calls), next(values))[1])
        with learn.no_bar(), learn.no_logging():
            learn.fit(3, 1e-4, cbs=GiveWay())
        return next(calls)
    return train


def test_a_run_whose_threads_waste_time_goes_on_with_one_and_says_so_once(fit, capsys):
    assert fit(WASTE / 2, 2 * WASTE) == 2 and torch.get_num_threads() == 1
    said = capsys.readouterr().out
    assert said.count("threads: other processes use these cores") == 1 and "--threads=1" in said


def test_threads_that_do_not_stay_and_only_the_first_steps_are_measured(fit, capsys):
    assert fit(WASTE, WASTE, WASTE) == len(CHECKED) and torch.get_num_threads() == 2
    assert "threads:" not in capsys.readouterr().out


def test_one_thread_is_not_measured(fit):
    torch.set_num_threads(1)
    assert fit() == 0


def test_a_machine_that_is_not_shared_is_not_measured(fit):
    assert fit(busy=0) == 0 and torch.get_num_threads() == 2


def test_where_threads_sleep_no_result_depends_on_what_else_runs(fit):
    assert fit(sleep=True) == 0 and torch.get_num_threads() == 2


def test_what_this_thread_computes_counts_and_not_what_it_waits_for(monkeypatch):
    """Each look at the wall's clock shows 1/128 s more; two threads take this one 3 times as much as one."""
    wall, clock = count(0, 2**-7), {"now": 0.0}
    monkeypatch.setattr(threads.time, "perf_counter", lambda: next(wall))

    def processor():
        clock["now"] += 0.3 if torch.get_num_threads() == 2 else 0.1
        return clock["now"]
    monkeypatch.setattr(threads.time, "thread_time", processor)
    assert cost(2) == pytest.approx(3) and torch.get_num_threads() == 2


def test_measuring_draws_no_random_number_and_leaves_the_number_of_threads():
    state = torch.get_rng_state()
    assert cost(2) > 0
    assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == 2
