import pandas as pd
import pytest
import size
from common import run_study
from conftest import ARCH

from busfast.bench import arena, job
from busfast.errors import UserError


def compete_here(contenders, rounds, at_once):
    """Contenders measure once, in this process: starting processes that import fastai takes the time."""
    return [arena.Outcome(contender.name, [ready.measure()], ready.facts, own=1_000_000)
            for contender in contenders for ready in [contender.make(**contender.settings)]]


def test_a_hundredth_a_tenth_and_all_images_are_measured(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(job, "MIN_SECONDS", 0)
    monkeypatch.setattr(size, "compete", compete_here)
    flags = ["--images=400", "--size=32", "--bs=2", "--rounds=1", "--threads=1", f"--arch={ARCH}"]
    run_study("size", size.__doc__, size.DEFAULTS, size.run, flags)
    table = pd.read_csv("results/bench/size.csv")
    assert table["images"].tolist() == [4, 40, 400] * 2 and table["own_mb"].tolist() == [1] * 6
    assert table["ratio"].tolist()[::3] == [1, 1]


def test_a_disk_that_is_too_small_is_refused(tmp_path):
    with pytest.raises(UserError, match="need .* GB, and .* GB are free"):
        size.check_disk(tmp_path, [10, 100, 10**9], 128)


def test_too_few_images_for_a_batch_of_a_hundredth_are_refused(tmp_path):
    with pytest.raises(UserError, match="images=399 is too few: a hundredth of them must fill a batch of 4"):
        size.run(tmp_path, 399, ARCH, 32, 4, 1, 1)
