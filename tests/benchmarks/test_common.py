"""Flags of the studies: those that the documents use are there, wrong ones are refused before time is spent."""

import re
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest
from common import run_all, run_study, threads_of

from busfast import processes
from busfast.bench import STUDIES

ROOT = Path(__file__).parents[2]


def run(study, *flags):
    module = import_module(study)
    run_study(study, module.__doc__, module.DEFAULTS, module.run, flags)


@pytest.mark.parametrize("study", STUDIES)
def test_a_document_shows_the_command_and_the_help_explains_each_of_its_flags(study, capsys):
    pages = "".join(page.read_text() for page in ROOT.glob("docs/*.md"))
    command = re.search(rf"^    python benchmarks/{study}.py(.*)", pages, re.MULTILINE)
    with pytest.raises(SystemExit):
        run(study, "--help")
    page = capsys.readouterr().out
    assert "of docs/" in page and all(flag in page for flag in re.findall(r"--\w+", command[1]))


@pytest.mark.parametrize(("study", "flags", "message"), [
    ("quality", [], "the following arguments are required: --data"),
    ("options", [], "the following arguments are required: --data"),
    ("options", ["--data=nowhere"], "There is no data folder 'nowhere'"),
    ("quality", ["--data=nowhere"], "There is no data folder 'nowhere'"),
    ("quality", ["--data=nowhere", "--seeds=1,x"], "seeds=x is not a whole number"),
    ("stores", ["--seed=1"], "unrecognized arguments: --seed=1"),
    ("stores", ["--rounds=0"], "rounds=0 is out of range"),
    ("size", ["--arch=efficientnet_b00"], "Unknown model 'efficientnet_b00'"),
])
def test_wrong_flags_are_refused(study, flags, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        run(study, *flags)
    assert end.value.code == 2 and message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_trainings_at_once_share_the_cores_and_one_has_all(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(processes, "cores", lambda: 8)
    assert [threads_of(jobs) for jobs in (1, 2, 4)] == [0, 4, 2]


@pytest.mark.parametrize("jobs", [1, 2])
def test_all_trainings_run_whatever_the_number_of_jobs_and_one_that_fails_is_not_hidden(jobs, tmp_path):
    run_all([partial((tmp_path / name).touch, exist_ok=False) for name in "abc"], jobs)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]
    with pytest.raises(FileExistsError):
        run_all([partial((tmp_path / name).touch, exist_ok=False) for name in "ab"], jobs)
