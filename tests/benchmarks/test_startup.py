import sys
import time
from types import SimpleNamespace

import pytest
import startup


def answer(monkeypatch, text):
    """Replaces the training by a command that prints a text."""
    monkeypatch.setattr(startup, "COMMAND", ("-c", f"import sys, time; print({text})"))


def test_the_time_ends_with_the_first_batch_whatever_is_printed_around_it(tmp_path, monkeypatch, capsys):
    answer(monkeypatch, f"'device: cpu\\n{startup.MARK}' + repr(time.time()) + '\\nthe end'")
    before = time.time()
    clock, processor = startup.measure(tmp_path, [])
    assert 0 < clock < time.time() - before and 0 < processor
    startup.main(["--repeats=2", "--size=64"])
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["clock", "processor"]


def test_the_learner_ends_the_training_at_its_first_batch(tmp_path, monkeypatch):
    code = "import runpy\nfrom types import SimpleNamespace\nlearn = SimpleNamespace()\n" \
        "runpy.run_path('first_batch.py')['learner'](learn)\nlearn.one_batch(0, None)\nprint('one more')"
    monkeypatch.setattr(startup, "COMMAND", ("-c", code))
    assert startup.measure(tmp_path, [])[0] > 0


def test_flags_and_the_cache_reach_the_training(tmp_path, monkeypatch):
    def run(command, cwd, env, **_):
        assert command[0] == sys.executable and command[-1] == "--size=64" and cwd == tmp_path
        assert env["BUSFAST_CACHE"] == str(tmp_path / "cache")
        return SimpleNamespace(stdout=f"{startup.MARK}{time.time() + 5}\n", stderr="")
    monkeypatch.setattr(startup.subprocess, "run", run)
    assert 4 < startup.measure(tmp_path, ["--size=64"])[0] < 6


def test_a_training_without_a_batch_is_shown(tmp_path, monkeypatch):
    answer(monkeypatch, "'no such model'")
    with pytest.raises(SystemExit, match="No batch was made:\nno such model"):
        startup.measure(tmp_path, [])
