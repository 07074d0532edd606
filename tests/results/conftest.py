"""One trained and one evaluated run for all tests of results/ in this process."""

import shutil

import pytest
from conftest import write_pipeline

from busfast.data.phantom import write_phantom


def run_in(folder, line):
    from busfast.cli import main

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(line.split()) == 0


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run on a phantom with enough patients for intervals; the fixture `place` is a copy of it."""
    folder = tmp_path_factory.mktemp("trained")
    write_phantom(folder / "data" / "phantom", images=300)
    write_pipeline(folder, "data/phantom")
    run_in(folder, "train --split=center_holdout --epochs=1")
    return folder


@pytest.fixture(scope="session")
def evaluated_once(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated") / "place"
    shutil.copytree(trained, folder)
    run_in(folder, "evaluate --run=phantom/center_holdout")
    return folder


@pytest.fixture
def evaluated(evaluated_once, tmp_path, monkeypatch):
    """A copy of a run that was trained and evaluated, to work in."""
    shutil.copytree(evaluated_once, tmp_path / "evaluated")
    monkeypatch.chdir(tmp_path / "evaluated")
    return tmp_path / "evaluated"
