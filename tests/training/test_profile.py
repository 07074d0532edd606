"""The profile accounts for all of an epoch, and each thing for itself."""

from itertools import count

import pytest
import torch
from conftest import ARCH, SIZE
from fastai.callback.core import Callback, CancelFitException
from fastai.learner import Learner
from torch import nn

from busfast.models.learner import make_learner
from busfast.pipelines import ImagePipeline, make_dls
from busfast.training import profile
from busfast.training.profile import PHASES, Profile, format_profile

BATCHES, EPOCHS = 3, 2


class Clock:
    """A clock that stands still unless something that is measured moves it; in seconds."""

    def __init__(self):
        self.now = 0

    def __call__(self):
        return self.now * 10**9

    def passes(self, seconds, result=None):
        self.now += seconds
        return result


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(profile, "perf_counter_ns", clock)
    return clock


class SlowModel(nn.Module):
    def __init__(self, clock):
        super().__init__()
        self.layer, self.clock = nn.Linear(2, 2), clock

    def forward(self, x):
        self.clock.passes(10)
        x = self.layer(x)
        if self.training:
            x.register_hook(lambda gradient: self.clock.passes(1000))
        return x


class SlowLoader:
    """Batches that take a while; with `borders`, as busfast's own that tell apart reading and copying."""

    def __init__(self, clock):
        self.clock = clock

    def __len__(self):
        return BATCHES

    def __iter__(self):
        for _ in range(BATCHES):
            self.clock.passes(1)
            yield torch.ones(4, 2), torch.tensor([0, 1, 0, 1])


class BorderLoader(SlowLoader):
    def lap(self, phase):
        """Nothing, unless somebody measures."""

    def __iter__(self):
        for batch in super().__iter__():
            self.lap("waiting")
            self.clock.passes(5)
            self.lap("to_device")
            yield batch


class SlowLearner(Learner):
    clock = None

    def _step(self):
        self.clock.passes(10_000)
        super()._step()

    def _set_device(self, b):
        self.clock.passes(100_000)
        return b


class SlowCallback(Callback):
    def __init__(self, clock):
        self.clock = clock

    def _passes(self):
        self.clock.passes(1_000_000)

    before_batch = after_pred = after_loss = before_backward = after_backward = before_step = after_step = _passes
    after_batch = before_train = after_train = before_epoch = after_epoch = _passes


class Dls:
    device, path, n_inp = torch.device("cpu"), ".", 1

    def __init__(self, clock, loader):
        self.train = self.valid = loader(clock)

    def __getitem__(self, index):
        return self.valid


def learner(clock, loader=SlowLoader):
    learn = SlowLearner(Dls(clock, loader), SlowModel(clock), nn.CrossEntropyLoss(), lr=1e-3)
    learn.clock = clock
    return learn


def fit(learn, *callbacks, epochs=EPOCHS):
    with learn.no_bar(), learn.no_logging():
        learn.fit(epochs, cbs=callbacks)


def test_each_phase_gets_its_own_time_and_nothing_is_lost(clock):
    callback, slow = Profile(), SlowCallback(clock)
    start = clock.now
    fit(learner(clock), callback, slow)
    assert [row["epoch"] for row in callback.rows] == [1, 2]
    train_calls = 8 * BATCHES + 4
    for row in callback.rows:
        assert row["waiting"] == 1 * BATCHES
        assert row["forward"] == 10 * BATCHES
        assert row["backward"] == 1000 * BATCHES
        assert row["optimizer"] == 10_000 * BATCHES
        assert row["to_device"] == 100_000 * BATCHES
        assert row["validation"] == BATCHES * (1 + 10 + 100_000 + 4 * 1_000_000)  # its callbacks included
        assert row["callbacks"] == 1_000_000 * train_calls
        assert row["seconds"] == sum(row[name] for name in PHASES)
    assert sum(row["seconds"] for row in callback.rows) == clock.now - start


def test_a_loader_can_tell_copying_from_reading_and_is_left_as_it_was(clock):
    callback, learn = Profile(), learner(clock, BorderLoader)
    before = {type(other) for other in learn.cbs}
    fit(learn, callback)
    assert callback.rows[0]["waiting"] == 1 * BATCHES
    assert callback.rows[0]["to_device"] == (5 + 100_000) * BATCHES
    assert vars(learn.dls.train) == {"clock": clock}
    assert {type(other) for other in learn.cbs} == before


def test_the_epoch_that_a_callback_ends_the_fit_in_is_counted(clock):
    class Stop(Callback):
        order = 60

        def after_epoch(self):
            raise CancelFitException
    callback = Profile()
    fit(learner(clock), callback, Stop())
    assert len(callback.rows) == 1 and callback.rows[0]["validation"] == BATCHES * 100_011


def test_a_second_fit_after_one_that_failed_is_counted_once(clock):
    class Fail(Callback):
        def after_batch(self):
            raise ValueError("broken")
    learn, callback = learner(clock), Profile()
    with pytest.raises(ValueError, match="broken"):
        fit(learn, callback, Fail())
    fit(learn)  # nobody measures: what the failed fit left behind must not either
    fit(learn, callback, SlowCallback(clock), epochs=1)
    assert callback.rows[0]["callbacks"] == 1_000_000 * (8 * BATCHES + 4)


@pytest.mark.parametrize(("waiting", "words"), [(11.0, "The loader is the bottleneck: 11.0%"),
                                                (10.0, "The loader is not the bottleneck: 10.0%")])
def test_the_table_says_whether_the_loader_is_the_bottleneck(waiting, words):
    row = dict.fromkeys(PHASES, 0.0) | {"epoch": 3, "waiting": waiting, "forward": 100 - waiting, "seconds": 100.0}
    text = format_profile(row)
    assert words in text and "profile of epoch 3: 100.0 s" in text
    assert all(words in text for words in PHASES.values())


def test_a_real_epoch_is_printed_and_adds_up(parts, tmp_path, monkeypatch, capsys):
    ticks = count(step=7)  # every reading of the clock is 7 ns later
    monkeypatch.setattr(profile, "perf_counter_ns", lambda: next(ticks))
    dls = make_dls(parts, ImagePipeline(size=SIZE), bs=16, loader="torchvision", device="cpu")
    callback = Profile()
    fit(make_learner(dls, ARCH, weights="none", path=tmp_path), callback, epochs=1)
    row = callback.rows[0]
    assert all(row[name] > 0 for name in PHASES)
    assert row["seconds"] == pytest.approx((next(ticks) - 7) / 1e9)
    assert "profile of epoch 1:" in capsys.readouterr().out
