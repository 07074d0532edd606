"""What ends a training at once: a loss that is not finite, and a signal."""

import math
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from fastai.callback.core import Callback

from busfast.csvfile import write_csv
from busfast.errors import UserError
from busfast.models.rare_looks import look_every
from busfast.text import counted

FILE, SHOWN = "bad_batch.csv", 5


class NonFiniteLoss(UserError):
    """A loss that is NaN or infinite; a resumed run would meet the same batch again."""


class StopOnNaN(Callback):
    """Ends the run when the loss of a batch, in training or validation, is not finite; what was saved stays.
    bad_batch.csv, the images of that batch, goes to `folder`; None: another rank writes it.
    """

    order = -8

    def __init__(self, folder: Path | None, lr: float):
        self.folder, self.start_lr = folder, lr

    def before_train(self):
        self.recent = []  # of the batches since the last look: number, images, loss on its device

    before_validate = before_train

    def after_batch(self):
        self.recent.append((self.iter + 1, self.dl.indices, self.loss.detach()))
        if len(self.recent) >= look_every(self.loss.device):
            self.look()

    def look(self):
        """Raises NonFiniteLoss if the loss of a batch since the last look is not finite."""
        losses = torch.stack([loss for *_, loss in self.recent]).tolist() if self.recent else []
        for (batch, indices, _), loss in zip(self.recent, losses, strict=True):
            if not math.isfinite(loss):
                self._stop(batch, indices, loss)
        self.recent = []

    def _stop(self, batch: int, indices: Sequence[int], loss: float):
        if self.folder is None:
            raise NonFiniteLoss(f"The loss became {loss}.")
        rows = self.dl.dataset.items.iloc[list(indices)]
        images = [str(image) for image in rows["image"]]
        path = self.folder / FILE
        write_csv(rows[["image", "label"]].assign(image=images), path)
        shown = ", ".join(images[:SHOWN]) + (", ..." if len(images) > SHOWN else "")
        part = "training" if self.training else "validation"
        raise NonFiniteLoss(
            f"The {part} loss became {loss} in epoch {self.epoch + 1}, batch {batch}. Try a lower "
            f"--lr={self.start_lr / 10:.3g} in a new run (the learning rate began with {self.start_lr:.3g} and was "
            f"{self.opt.hypers[-1]['lr']:.3g} here); --resume would meet the same batch again. Check its "
            f"{counted(len(images), 'image')}, too: {shown} (all of them are listed in {path}).")

    after_train = after_validate = look


class RaiseOnSignal(Callback):
    """Ends the fit at its next batch if a signal was received (see `record_signals`) and the fit still runs. Python
    drops an exception that a signal handler raises inside a finalizer; Ctrl-C would then be lost.
    """

    def __init__(self, signals: list[int]):
        self.signals = signals

    def before_batch(self):
        raise_on_signal(self.signals)


def raise_on_signal(signals: list[int]) -> None:
    """Raises what the handler of the first received signal raises; nothing if there was no signal."""
    if signals:
        raise KeyboardInterrupt if signals[0] == signal.SIGINT else SystemExit(128 + signals[0])


@contextmanager
def record_signals() -> Iterator[list[int]]:
    """Yields a list to which SIGINT and SIGTERM are appended when received; their handlers run as before."""
    signals, handlers = [], {}

    def record(number, frame):
        signals.append(number)
        handlers[number](number, frame)

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            if callable(signal.getsignal(number)):
                handlers[number] = signal.signal(number, record)
    except ValueError:  # not the main thread: only that one receives signals
        pass
    try:
        yield signals
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
