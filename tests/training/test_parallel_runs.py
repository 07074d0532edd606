"""Runs side by side: one that fails, an interruption, and which GPU each takes."""

import os
import signal
from pathlib import Path

import pytest
import torch

import busfast
from busfast.errors import UserError
from busfast.training import parallel_runs

ROOT = Path(busfast.__file__).parents[1]
WAITING = """
import signal, sys, time
def end(*_):
    open("ended-" + sys.argv[1], "w").close()
    sys.exit(143)
signal.signal(signal.SIGTERM, end)
print("waits", flush=True)
time.sleep(60)
"""


def test_a_job_that_fails_leaves_the_others_alone(monkeypatch, capsys):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    found = parallel_runs.run_jobs({"bad": ["trian"], "good": ["--version"], "worse": ["train", "--epochs=x"]}, 2,
                                   torch.device("cpu"))
    said = capsys.readouterr().out
    assert found == ["bad", "worse"]
    assert "[good] busfast " in said and "[bad] busfast: Unknown verb 'trian'" in said


def test_what_runs_share_is_said_once_and_what_the_command_says_is_not_said_for_each(tmp_path, monkeypatch, capsys):
    """`busfast` is a program that says what a training does."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "busfast").mkdir()
    (tmp_path / "busfast" / "__init__.py").touch()
    (tmp_path / "busfast" / "__main__.py").write_text(
        "print('settings: p\\nsplit: s\\n  train 3\\nresume: a\\n  details\\ndevice: cpu\\nmodel: a\\n\\n"
        "stopping early\\n  to continue: this run\\nNext: evaluate')")
    assert parallel_runs.run_jobs({"one": [], "two": []}, 1, torch.device("cpu")) == []
    own = [["resume: a", "  details"], ["stopping early"]]
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(", about ")[0] for line in said if line.startswith("jobs: ")][1:] == [
        "jobs: 1 of 2 runs have ended"]  # of the last one there is nothing to say
    assert [line for line in said if not line.startswith("jobs: ")] == [
        *(f"[one] {line}" for line in own[0]), "device: cpu", "model: a", *(f"[one] {line}" for line in own[1]),
        *(f"[two] {line}" for line in own[0]), *(f"[two] {line}" for line in own[1])]


def test_the_time_left_counts_what_waits_and_the_rest_of_what_runs_side_by_side():
    assert parallel_runs.time_left([10, 20], [5], 4, 2) == (15 + 10) / 2
    assert parallel_runs.time_left([10], [], 3, 1) == 20
    assert parallel_runs.time_left([10], [12], 2, 2) == 0  # longer than the others: any moment now


def test_an_interruption_ends_all_jobs_and_begins_no_other(tmp_path, monkeypatch):
    """What a training does when it is ended: test_resume.py. Here `busfast` is a program that waits for its end."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "busfast").mkdir()
    (tmp_path / "busfast" / "__init__.py").touch()  # so that it comes before a busfast on PYTHONPATH
    (tmp_path / "busfast" / "__main__.py").write_text(WAITING)
    waiting = set()

    def tell(text, **_):
        waiting.update(name for name in ("one", "two") if text.startswith(f"[{name}]"))
        if len(waiting) == 2:
            os.kill(os.getpid(), signal.SIGINT)
            waiting.clear()
    monkeypatch.setattr(parallel_runs, "print", tell, raising=False)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            parallel_runs.run_jobs({"one": ["1"], "two": ["2"], "three": ["3"]}, 2, torch.device("cpu"))
    finally:
        signal.signal(signal.SIGINT, before)
    assert sorted(path.name for path in tmp_path.glob("ended-*")) == ["ended-1", "ended-2"]


def test_there_are_no_more_jobs_than_gpus_and_each_takes_one_of_those_it_may_use(monkeypatch):
    """The arithmetic alone: no GPU is here."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert parallel_runs.check_jobs("2", torch.device("cuda")) == 2
    assert parallel_runs.check_jobs(9, torch.device("cpu")) == 9
    with pytest.raises(UserError, match=r"jobs=3 is more than there are GPUs here \(2\)"):
        parallel_runs.check_jobs(3, torch.device("cuda"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5")
    assert [parallel_runs._visible(number) for number in (0, 1)] == ["3", "5"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert parallel_runs._visible(1) == "1"
