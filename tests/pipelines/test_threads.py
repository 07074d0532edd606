"""--threads rules torch's threads, too; without it, a run takes no more than it may use."""

import pytest
import torch

from busfast.pipelines import threads
from busfast.pipelines.threads import use_threads


@pytest.fixture(autouse=True)
def four():
    """torch would take four threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    threads._automatic.cache_clear()
    yield
    torch.set_num_threads(before)
    threads._automatic.cache_clear()


def test_the_number_asked_for_is_used_and_does_not_outlast_the_run(monkeypatch):
    monkeypatch.setattr(threads, "threads_per_process", lambda: 8)
    assert use_threads() == 4  # torch counts physical cores
    assert use_threads(2) == torch.get_num_threads() == 2
    assert use_threads(0) == torch.get_num_threads() == 4


def test_a_quota_limits_what_torch_would_take_and_not_what_is_asked_for(monkeypatch):
    monkeypatch.setattr(threads, "threads_per_process", lambda: 1)
    assert use_threads() == torch.get_num_threads() == 1
    assert use_threads(3) == 3
