"""Trainings of this folder's tests draw blank curves, but where a test asks for `real_curves`."""

import pytest

from busfast.training import log
from busfast.training.curves import draw_curves
from training.forks import draw_blank_curves


@pytest.fixture(scope="package", autouse=True)
def blank_curves():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log, "draw_curves", draw_blank_curves)
        yield


@pytest.fixture
def real_curves(monkeypatch):
    monkeypatch.setattr(log, "draw_curves", draw_curves)
