"""Whoever waits sees how far it is, with a terminal or without."""

import io
import sys

import pytest

from busfast import progress as module
from busfast.progress import duration, progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_without_a_terminal_there_are_plain_lines_now_and_then(monkeypatch, capsys):
    clock = iter(range(0, 1000, 9))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    assert list(progress(range(6), "reading images")) == list(range(6))
    lines = capsys.readouterr().err.splitlines()
    assert lines and all(line.startswith("reading images: ") and line.endswith(" of 6") for line in lines)


def test_a_short_job_says_nothing(capsys):
    assert list(progress(iter("abc"), "reading images", total=3)) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_there_is_a_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert list(progress(range(5), "reading images")) == list(range(5))
    assert "reading images" in sys.stderr.getvalue() and "5" in sys.stderr.getvalue()


def test_an_error_in_the_work_comes_through(capsys):
    def work():
        yield 1
        raise OSError("gone")
    with pytest.raises(OSError, match="gone"):
        list(progress(work(), "reading images", total=2))


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (91, "2 min"), (5399, "90 min"),
                                               (5401, "1.5 h"), (720_000, "200 h")])
def test_a_duration_is_short(seconds, text):
    assert duration(seconds) == text and len(text) <= 6
