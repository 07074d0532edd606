"""What ends a training at once: a loss that is no number, with a clear error; a signal, whatever swallows it."""

import math
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastai.callback.core import Callback

from busfast.csvfile import write_csv
from busfast.errors import UserError
from busfast.text import counted

FILE, SHOWN = "bad_batch.csv", 5


class NonFiniteLoss(UserError):
    """A loss that is no number; going on with the same run would come to the same batch."""


class StopOnNaN(Callback):
    """Ends the run when the loss of a batch, in training or validation, is no number; what was saved stays.

    Args:
        folder: bad_batch.csv with the images of that batch goes there; None: nowhere, as another process writes it.
        lr: what the learning rate began with; a tenth of it is suggested.
    """

    order = -8

    def __init__(self, folder: Path | None, lr: float):
        self.folder, self.start_lr = folder, lr

    def after_batch(self):
        loss = self.loss.item()
        if math.isfinite(loss):
            return
        if self.folder is None:
            raise NonFiniteLoss(f"The loss became {loss}.")
        dl = self.dls.train if self.training else self.dls.valid
        rows = dl.dataset.items.iloc[dl.indices]
        images = [str(image) for image in rows["image"]]
        path = self.folder / FILE
        write_csv(rows[["image", "label"]].assign(image=images), path)
        shown = ", ".join(images[:SHOWN]) + (", ..." if len(images) > SHOWN else "")
        part = "training" if self.training else "validation"
        raise NonFiniteLoss(
            f"The {part} loss became {loss} in epoch {self.epoch + 1}, batch {self.iter + 1}. Try a lower "
            f"--lr={self.start_lr / 10:.3g} in a new run (it began with {self.start_lr:.3g}, and was "
            f"{self.opt.hypers[-1]['lr']:.3g} here); going on with --resume would meet the same batch again. Look at "
            f"its {counted(len(images), 'image')}, too: {shown} (all of them in {path}).")


class RaiseOnSignal(Callback):
    """Ends the fit at its next batch if a signal came and the fit still runs.

    Python drops an exception that a signal raises while an object is being finalised; Ctrl-C would then be lost.

    Args:
        signals: as `record_signals` gives it.
    """

    def __init__(self, signals: list[int]):
        self.signals = signals

    def before_batch(self):
        heed(self.signals)


def heed(signals: list[int]) -> None:
    """Raises what the first of the signals that signals, if any, would have."""
    if signals:
        raise KeyboardInterrupt if signals[0] == signal.SIGINT else SystemExit(128 + signals[0])


@contextmanager
def record_signals() -> Iterator[list[int]]:
    """Yields a list that SIGINT and SIGTERM are added to as they come, before what they do otherwise."""
    signals, before = [], {}

    def note(number, frame):
        signals.append(number)
        before[number](number, frame)

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            if callable(signal.getsignal(number)):
                before[number] = signal.signal(number, note)
    except ValueError:  # not the main thread, which alone may do this and alone gets signals
        pass
    try:
        yield signals
    finally:
        for number, old in before.items():
            signal.signal(number, old)
