"""A loss that is no number ends the run, with the images of its batch and a way out; a signal does in any case."""

import math
import os
import signal
import sys

import pandas as pd
import pytest
import torch
from conftest import ARCH, SIZE
from fastai.callback.core import Callback

from busfast.models.learner import make_learner
from busfast.pipelines import ImagePipeline, make_dls
from busfast.training.guards import NonFiniteLoss, RaiseOnSignal, StopOnNaN, record_signals


@pytest.fixture
def learn(parts, tmp_path):
    dls = make_dls(parts, ImagePipeline(size=SIZE), bs=16, loader="torchvision", device="cpu")
    learn = make_learner(dls, ARCH, weights="none", path=tmp_path)
    with learn.no_bar(), learn.no_logging():
        yield learn


class Spoil(Callback):
    """Makes the pixels of one batch NaN, and remembers its labels."""

    def __init__(self, training, batch):
        self.training_, self.batch_ = training, batch

    def before_batch(self):
        if (self.training, self.iter) == (self.training_, self.batch_):
            self.learn.xb = (self.xb[0] * math.nan,)
            self.labels = [self.dls.vocab[index] for index in self.yb[0]]


@pytest.mark.parametrize(("training", "part", "batch"), [(True, "training", 2), (False, "validation", 0)])
def test_the_images_of_the_batch_are_named_and_a_tenth_of_the_rate_suggested(learn, tmp_path, training, part, batch):
    spoil = Spoil(training, batch)
    with pytest.raises(NonFiniteLoss) as caught:
        learn.fit(1, 1e-3, cbs=[spoil, StopOnNaN(tmp_path, 1e-3)])
    said, bad = str(caught.value), pd.read_csv(tmp_path / "bad_batch.csv")
    assert f"The {part} loss became nan in epoch 1, batch {batch + 1}. Try a lower --lr=0.0001" in said
    assert "would meet the same batch again" in said and str(tmp_path / "bad_batch.csv") in said
    assert bad["label"].tolist() == spoil.labels
    table = learn.dls.train_ds.items if training else learn.dls.valid_ds.items
    assert set(bad["image"]) <= set(table["image"])
    assert ", ".join(bad["image"][:5]) + ", ..." in said and bad["image"][5] not in said


def test_an_infinite_loss_ends_the_run_too(learn, tmp_path):
    with torch.no_grad():
        learn.model.classifier.bias[0] = math.inf
    with pytest.raises(NonFiniteLoss, match="loss became (nan|inf)"):
        learn.fit(1, 1e-3, cbs=StopOnNaN(tmp_path, 1e-3))


class Finalised:
    """Has a signal sent to this process while it goes, when Python drops what its handler raises."""

    def __init__(self, number):
        self.number = number

    def __del__(self):
        os.kill(os.getpid(), self.number)
        for _ in range(1000):
            pass  # the handler runs between two of these


class Swallow(Callback):
    def __init__(self, number):
        self.number_, self.batches = number, 0

    def after_batch(self):
        self.batches += 1
        if self.batches == 2:
            Finalised(self.number_)


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_whose_exception_was_dropped_ends_the_fit_at_the_next_batch(learn, monkeypatch, number, raised):
    # Where the tests run in the background, a shell may have had SIGINT ignored.
    old = {signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)),
           signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler)}
    swallow, handlers = Swallow(number), [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    monkeypatch.setattr(sys, "unraisablehook", lambda found: None)
    try:
        with pytest.raises(raised), record_signals() as came:
            learn.fit(3, 1e-3, cbs=[swallow, RaiseOnSignal(came)])
        assert swallow.batches == 2 and came == [number]
        assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == handlers
    finally:
        for one, handler in old.items():
            signal.signal(one, handler)
