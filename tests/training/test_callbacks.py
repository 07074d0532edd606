"""Best and final weights are kept, whatever happens; a collapse is said loudly."""

import math
from types import SimpleNamespace

import pytest
import torch
from conftest import ARCH, SIZE
from fastai.callback.core import Callback

from busfast.errors import UserError
from busfast.models.learner import make_learner
from busfast.pipelines import ImagePipeline, make_dls
from busfast.training.callbacks import (
    EarlyStopping,
    SaveBest,
    SaveFinal,
    WarnCollapse,
    monitor_with,
    save_weights,
)
from busfast.training.log import PlainProgress


@pytest.fixture
def learn(parts, tmp_path):
    dls = make_dls(parts, ImagePipeline(size=SIZE), bs=32, loader="torchvision", device="cpu")
    learn = make_learner(dls, ARCH, weights="none", path=tmp_path)
    with learn.no_bar(), learn.no_logging():
        yield learn


class Scores(Callback):
    """Puts given values in the place of val_loss (or another column) and remembers each epoch's weights."""

    order = 51

    def __init__(self, values, name="val_loss"):
        self.values_, self.name_, self.states = values, name, []

    def after_epoch(self):
        column = list(self.recorder.metric_names[1:]).index(self.name_)
        self.recorder.values[-1][column] = self.values_[self.epoch]
        self.states.append({name: value.clone() for name, value in self.model.state_dict().items()})


def equal(a, b) -> bool:
    return all(torch.equal(value, b[name]) for name, value in a.items())


def fit(learn, tmp_path, values, patience=7, monitor="val_loss", extra=()):
    watch = monitor_with(monitor, (monitor,))
    scores = Scores(values, monitor)
    best, stop = SaveBest(tmp_path / "best.pth", **watch), EarlyStopping(**watch, patience=patience)
    learn.fit(len(values), 1e-3, cbs=[scores, best, stop, SaveFinal(tmp_path / "final.pth"), *extra])
    return scores.states, best, stop


def load(path):
    return torch.load(path, weights_only=True)


def test_best_is_the_best_epoch_and_final_the_last(learn, tmp_path):
    states, best, _ = fit(learn, tmp_path, [0.9, 0.5, 0.7])
    assert best.best_epoch == 2
    assert equal(states[1], load(tmp_path / "best.pth")) and not equal(states[2], load(tmp_path / "best.pth"))
    assert equal(states[2], load(tmp_path / "final.pth"))
    assert equal(states[1], learn.model.state_dict())  # the best are put back


def test_a_score_is_watched_upwards(learn, tmp_path):
    _, best, _ = fit(learn, tmp_path, [0.5, 0.9, 0.7], monitor="macro_auc")
    assert best.best_epoch == 2


def test_early_stopping_waits_for_its_patience_and_says_the_epoch(learn, tmp_path, capsys):
    states, best, stop = fit(learn, tmp_path, [0.5, 0.4, 0.6, 0.6, 0.1, 0.1], patience=2)
    assert len(states) == 4 and stop.stopped and best.best_epoch == 2
    assert "no better val_loss since epoch 2: stopping early" in capsys.readouterr().out


def test_with_nothing_but_nan_no_older_file_is_loaded(learn, tmp_path):
    old = tmp_path / "best.pth"
    torch.save({"old": torch.zeros(1)}, old)
    states, best, _ = fit(learn, tmp_path, [math.nan, math.nan])
    assert best.best_epoch is None and load(old).keys() == {"old"}
    assert equal(states[-1], learn.model.state_dict())


def test_a_class_given_up_for_three_epochs_is_said_loudly_once(learn, tmp_path, capsys):
    fit(learn, tmp_path, [0.5, 0.0, 0.0, 0.0, 0.0], monitor="recall_malignant", extra=[WarnCollapse()])
    out = capsys.readouterr().out
    assert out.count("WARNING: the sensitivity for malignant has been 0 for 3 epochs") == 1


def test_many_classes_given_up_at_once_are_one_warning(learn, capsys):
    warn = WarnCollapse()
    warn.learn = learn
    warn.before_fit()
    learn.recorder.metric_names = ["epoch", *(f"recall_{name}" for name in "abcd"), "macro_auc"]
    for _ in range(3):
        learn.recorder.values = [[0.0, 0.0, 0.5, 0.0, 0.5]]
        warn.after_epoch()
    out = capsys.readouterr().out
    assert "WARNING: the sensitivity for a, b, d has been 0 for 3 epochs" in out and out.count("WARNING") == 1


@pytest.mark.parametrize("count", [6, 7])
def test_the_sensitivity_for_many_classes_is_in_the_log_not_on_the_screen(count, capsys):
    row = {"epoch": 1, "val_loss": "0.5", **{f"recall_{number}": "1" for number in range(count)}, "lr": "1e-3",
           "seconds": "2"}
    progress = PlainProgress(SimpleNamespace(rows=[row]))
    progress.learn = SimpleNamespace(n_epoch=4)
    progress.after_epoch()
    out = capsys.readouterr().out
    assert out.startswith("epoch 1/4  val_loss 0.500  ") and ("sensitivity_0 1.000" in out) == (count == 6)


def test_a_full_disk_while_saving_keeps_the_last_good_file(learn, tmp_path):
    resource = pytest.importorskip("resource")
    signal = pytest.importorskip("signal")
    path = save_weights(learn.model.state_dict(), tmp_path / "best.pth")
    good = path.read_bytes()
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(good) // 2, limits[1]))
    try:
        with pytest.raises(UserError, match="Cannot write .*best.pth.*unchanged"):
            save_weights(learn.model.state_dict(), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, old)
    assert path.read_bytes() == good
    assert [file.name for file in tmp_path.iterdir()] == ["best.pth"]
