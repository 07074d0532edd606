"""The study of a sweep."""

import pytest

from busfast.pipelines.config import Config
from busfast.sweep.request import Request
from busfast.sweep.space import read_space
from busfast.sweep.study import Sweep
from busfast.training.runs import Run


@pytest.fixture
def make_study(tmp_path, monkeypatch):
    """Makes the study of a sweep of 20 trials, without training."""
    monkeypatch.chdir(tmp_path)
    sweep = Run("phantom/sweep-stratified")
    for folder in (sweep.results, sweep.models):
        folder.mkdir(parents=True)

    def study_of(objective="macro_auc", pruner="median", trials=20, params="lr,wd", **config):
        config = Config(data="x", epochs=6, **config)
        request = Request(config, read_space(params, config), trials, 1, objective, pruner)
        return Sweep(sweep, request, {})
    return study_of
