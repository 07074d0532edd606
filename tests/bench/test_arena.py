"""Each contender is measured by itself, in turn with the others.

Covers busfast/bench/arena.py and busfast/bench/memory.py.
"""

import os
import sys
from pathlib import Path

import pytest

from bench.bench_contenders import broken, dies, fails_later, holds, notes_its_turn, steady
from busfast.bench import arena, report
from busfast.bench.arena import Contender, compete


def test_each_contender_has_a_process_of_its_own_and_the_first_round_is_not_counted():
    found = compete([Contender("a", steady, {"values": [9.0, 1.0, 2.0]}),
                     Contender("b", steady, {"values": [8.0, 3.0, 4.0]})], rounds=2)
    assert [one.values for one in found] == [[1.0, 2.0], [3.0, 4.0]]
    assert len({one.facts["process"] for one in found} | {os.getpid()}) == 3


def test_variables_of_a_contender_are_set_in_its_process_only():
    found = compete([Contender("a", steady, {"values": [1.0, 1.0]}, environment={"BUSFAST_TEST": "1"}),
                     Contender("b", steady, {"values": [1.0, 1.0]})], rounds=1)
    assert [one.facts["variable"] for one in found] == ["1", None] and "BUSFAST_TEST" not in os.environ


def test_contenders_take_turns_and_each_round_begins_with_another(tmp_path):
    file = str(tmp_path / "log")
    compete([Contender(name, notes_its_turn, {"name": name, "file": file}) for name in "abc"], rounds=2)
    assert Path(file).read_text() == "abc" "bca" "cab"


def test_who_fails_or_is_absent_is_reported_with_the_reason_and_the_others_go_on(capsys):
    found = compete([Contender("broken", broken, {}), Contender("dies", dies, {}), Contender("later", fails_later, {}),
                     Contender("absent", steady, {"values": [1.0]}, {"no.such.library": "no-such-library"}),
                     Contender("fine", steady, {"values": [1.0, 2.0]})], rounds=1)
    reasons = report.reasons(found)
    assert reasons == {"broken": "ValueError: no such thing here", "dies": "its process ended (3)",
                       "later": "ZeroDivisionError: division by zero",
                       "absent": "not installed: pip install no-such-library"}
    assert found[-1].values == [2.0] and all(not one.values for one in found[:-1])
    out = capsys.readouterr().out
    assert all(f"{name}: skipped: {reason}" in out for name, reason in reasons.items())
    assert list(report.tabulate(found, "fine")["name"]) == ["fine"]


def test_an_error_of_the_bench_itself_leaves_no_process_behind(monkeypatch):
    processes = []

    def stop(things, what):
        if what == "measuring":
            raise KeyboardInterrupt
        yield from things

    monkeypatch.setattr(arena, "progress", stop)
    end = arena._Worker.end
    monkeypatch.setattr(arena._Worker, "end", lambda self: (processes.append(self.process.pid), end(self)))
    with pytest.raises(KeyboardInterrupt):
        compete([Contender("a", steady, {"values": [1.0]})], rounds=1)
    with pytest.raises(ProcessLookupError):
        os.kill(processes[0], 0)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells")
def test_memory_is_that_of_the_contender():
    small, large = compete([Contender("small", holds, {"megabytes": 1}), Contender("large", holds, {"megabytes": 200})],
                           rounds=1)
    assert 150e6 < large.own - small.own < 250e6
    assert 150e6 < large.peak - small.peak < 250e6
