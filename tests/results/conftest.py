"""One trained and one evaluated run for all tests of results/."""

import shutil

import pytest
from conftest import run_in, write_pipeline

from busfast.data.phantom import write_phantom


@pytest.fixture(scope="session")
def trained(make_once):
    """A run on a phantom with enough patients for intervals; the fixture `place` is a copy of it."""
    def make(folder):
        write_phantom(folder / "data" / "phantom", images=300)
        write_pipeline(folder, "data/phantom")
        run_in(folder, "train --split=center_holdout --epochs=1")
    return make_once("trained", make)


@pytest.fixture(scope="session")
def evaluated_once(trained, make_once):
    def make(folder):
        shutil.copytree(trained, folder)
        run_in(folder, "evaluate --run=phantom/center_holdout")
    return make_once("evaluated", make)


@pytest.fixture
def evaluated(evaluated_once, tmp_path, monkeypatch):
    """A copy of a run that was trained and evaluated, to work in."""
    shutil.copytree(evaluated_once, tmp_path / "evaluated")
    monkeypatch.chdir(tmp_path / "evaluated")
    return tmp_path / "evaluated"
