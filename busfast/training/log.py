"""training_log.csv: a row at the end of each epoch, on disk before the next one starts."""

import csv
import time
from collections.abc import Callable
from pathlib import Path

from fastai.callback.core import Callback
from fastai.learner import AvgLoss

from busfast.files import atomic
from busfast.training import curves

RECALLS = 6  # classes; of more, the sensitivity for each is in the log, not on the screen
HEARTBEAT = 30.0  # seconds between plain lines within an epoch


class TrainingLog(Callback):
    """Writes the log and updates the curves; `rows` are column -> value as written.

    Columns: epoch (from 1), train_loss (weighted, mean over the epoch), val_loss (unweighted), val_acc, macro_auc,
    recall_CLASS (the sensitivity for each class), lr (at the end of the epoch), seconds. `schedule`: share of the
    training done -> lr.
    """

    order = 55  # after the Recorder, before early stopping can end the fit

    def __init__(self, folder: Path, schedule: Callable[[float], float], caption: str):
        self.folder, self.schedule, self.caption, self.rows = folder, schedule, caption, []

    def before_fit(self):
        self.rows, self.drawn_rows, self.drawn, self.cost = [], 0, 0.0, 0.0
        # fastai smooths the training loss across epochs; the log has each epoch's own.
        self.learn.recorder.smooth_loss = AvgLoss()
        self.learn.recorder.smooth_loss.reset()

    def before_epoch(self):
        self.began = time.monotonic()
        self.recorder.log[0] = self.epoch + 1  # fastai's table on screen counts from 0
        self.learn.recorder.smooth_loss.reset()

    def after_epoch(self):
        values = dict(zip(self.recorder.metric_names[1:], self.recorder.values[-1], strict=False))
        row = {"epoch": self.epoch + 1, "train_loss": values.pop("train_loss")}
        values.pop("valid_loss")  # weighted; val_loss can be compared between runs
        row |= values | {"lr": self.schedule((self.epoch + 1) / self.n_epoch), "seconds": time.monotonic() - self.began}
        self.rows.append({name: value if isinstance(value, int) else f"{value:.6g}" for name, value in row.items()})
        self.write()
        # Drawing takes about a second: it may cost a twentieth of the time at most.
        if time.monotonic() - self.drawn > 20 * self.cost:
            self._draw()

    def after_fit(self):
        if self.drawn_rows != len(self.rows):
            self._draw()

    def write(self):
        """Writes the whole log from `rows`."""
        with atomic(self.folder / "training_log.csv") as file:
            writer = csv.DictWriter(file, self.rows[0])
            writer.writeheader()
            writer.writerows(self.rows)

    def _draw(self):
        start = time.monotonic()
        curves.draw_curves(self.folder, self.caption)
        self.drawn_rows, self.drawn = len(self.rows), time.monotonic()
        self.cost = self.drawn - start


class PlainProgress(Callback):
    """Plain lines instead of fastai's bars, where there is no terminal."""

    order = 57

    def __init__(self, log: TrainingLog):
        self.log = log

    def before_fit(self):
        self.learn.logger = lambda values: None

    def before_train(self):
        self.last = time.monotonic()

    def after_batch(self):
        if self.training and time.monotonic() - self.last > HEARTBEAT:
            self.last = time.monotonic()
            print(f"  epoch {self.epoch + 1}/{self.n_epoch}: batch {self.iter + 1}/{self.n_iter}, "
                  f"loss {self.smooth_loss.item():.3f}")

    def after_epoch(self):
        row = self.log.rows[-1]
        recalls = [name for name in row if name.startswith("recall_")]
        left_out = ("epoch", "lr", "seconds", *(recalls if len(recalls) > RECALLS else ()))
        line = "  ".join(f"{name.replace('recall_', 'sensitivity_')} {float(value):.3f}" for name, value in row.items()
                         if name not in left_out)
        print(f"epoch {row['epoch']}/{self.n_epoch}  {line}  lr {float(row['lr']):.2e}  "
              f"{float(row['seconds']):.1f} s")
