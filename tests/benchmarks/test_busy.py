import subprocess

import busy
import pandas as pd
import pytest
import torch
from common import run_study
from conftest import ARCH

from busfast.bench import arena


def test_each_way_is_measured_alone_and_beside_busy_processes(tmp_path, monkeypatch):
    """Contenders measure once, in this process: starting processes that import fastai takes the time."""
    seen = {}

    def compete_here(contenders, rounds, at_once):
        return [arena.Outcome(one.name, [ready.measure()], seen.setdefault(one.name, ready.facts))
                for one in contenders for ready in [one.make(**one.settings)]]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(busy, "compete", compete_here)
    before = torch.get_num_threads()
    run_study("busy", busy.__doc__, busy.DEFAULTS, busy.run,
              ["--images=4", "--size=32", "--bs=2", "--rounds=1", f"--arch={ARCH}"])
    torch.set_num_threads(before)
    table = pd.read_csv("results/bench/busy.csv")
    assert table["name"].tolist() == [f"{way}, {place}" for place in busy.PLACES for way in busy.WAYS]
    assert table["name"].tolist() == list(seen) and seen["busfast, one thread, busy"] == {"threads": 1}
    assert {target.over for target in busy.TARGETS} | {target.under for target in busy.TARGETS} <= set(seen)


def test_busy_processes_run_until_the_measurement_ends_however_it_ends():
    with pytest.raises(KeyboardInterrupt), busy.busy_processes(2) as started:
        assert [process.poll() for process in started] == [None, None]
        raise KeyboardInterrupt
    assert all(isinstance(process, subprocess.Popen) and process.returncode for process in started)
