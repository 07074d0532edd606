"""The epochs of a run on a terminal: a bar that says how long everything takes, then one line of a table each."""

import shutil
import sys
import time
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from fastai.callback.core import Callback
from tqdm import tqdm

from busfast.once import say
from busfast.progress import bold, duration
from busfast.training.callbacks import SaveBest
from busfast.training.job import Turn
from busfast.training.log import TrainingLog

WIDEST = 120  # characters
LOWEST = "lowest sensitivity"  # of all classes, where that of each does not fit
SHORTEST = 5  # characters of a class's name
TITLES = {"train_loss": ("loss", "train"), "val_loss": ("loss", "valid"), "val_acc": ("validation", "acc"),
          "macro_auc": ("validation", "AUC")}


class Column(NamedTuple):
    """A column of the table: its key in the log, the title above it and its neighbors', its own title, its width."""

    key: str
    group: str
    title: str
    width: int


class TableProgress(Callback):
    """Prints a line for each epoch, no longer than the terminal is wide; * marks the best epoch so far.

    Validation loss is the log's val_loss alone: fastai's valid_loss is the same, weighted by class.
    """

    order = SaveBest.order + 1  # which epoch is the best is known; before early stopping can end the fit

    def __init__(self, log: TrainingLog, best: SaveBest, turn: Turn):
        self.log, self.best, self.turn = log, best, turn
        self.bar: tqdm | None = None

    def before_fit(self):
        self.learn.logger, self.columns = lambda values: None, ()

    def before_train(self):
        self.width = min(shutil.get_terminal_size().columns - 1, WIDEST)
        if not self.columns:  # only now it is known with which epoch a resumed run begins
            self.first, self.began = self.epoch, time.monotonic()
            names = [name for name in self.recorder.metric_names if name not in ("epoch", "valid_loss", "time")]
            self.columns = choose_columns(names, self.best.monitor, self.n_epoch, self.width)
            say(f"* is the best epoch so far, by {self.best.monitor}")
            if self.turn.until:
                say(f"left is the time {self.turn.until}")
            print(*format_header(self.columns), sep="\n")
        self.shown = time.monotonic()
        self.bar = tqdm(total=len(self.dls.train) + len(self.dls.valid), desc=f"epoch {self.epoch + 1}/{self.n_epoch}",
                        bar_format="{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} batches{postfix}",
                        file=sys.stdout, leave=False, ncols=self.width - 2)  # a terminal adds ^C

    def after_batch(self):
        self.bar.update()
        if self.training and time.monotonic() - self.shown > 1:  # reading a loss waits for a GPU
            self.shown = time.monotonic()
            left = self._left(self.bar.n / self.bar.total)
            self.bar.set_postfix_str(f"loss {self.smooth_loss.item():.3f}, {left} left", refresh=False)

    def after_validate(self):
        self.close()

    def close(self):
        """Clears the bar, also that of an epoch which was not completed."""
        if self.bar is not None:
            self.bar.close()

    def after_epoch(self):
        row, is_best = self.log.rows[-1], self.best.best_epoch == self.epoch + 1
        cells = row | {"epoch": f"{row['epoch']}/{self.n_epoch}{'*' if is_best else ' '}", "left": self._left(1.0)}
        line = format_row(self.columns, cells)
        print(bold(line) if is_best else line)

    def _left(self, share: float) -> str:
        """How long the rest of the run takes, after a share of this epoch, and what comes after the run."""
        done = self.epoch - self.first + share
        epochs = self.n_epoch - self.first - done + self.n_epoch * self.turn.later
        return duration((time.monotonic() - self.began) / done * epochs + self.turn.seconds)


def choose_columns(names: Sequence[str], monitor: str, epochs: int, width: int) -> list[Column]:
    """Returns the columns that fit, of the epoch, the log's `names`, and the time left.

    The measure that the best epoch is chosen by always has one. The sensitivity for each class (the log's recall) has,
    with its name cut if need be, if all of them fit; else there is one for the lowest.
    """
    recalls = [name for name in names if name.startswith("recall_") and name != monitor]
    plain = [_measure(name) for name in names if name not in recalls]
    fixed = [Column("epoch", "", "epoch ", max(6, 2 * len(str(epochs)) + 2)), Column("left", "", "left", 6)]
    lr = Column("lr", "", "lr", 6)
    for column in sorted(plain, key=lambda column: column.key not in ("train_loss", "val_loss", monitor)):
        if _total([*fixed, column]) <= width:
            fixed.append(column)
    if _total([*fixed, lr]) <= width:
        fixed.append(lr)
    chosen = [column for column in (fixed[0], lr, *plain) if column in fixed]
    room = width - _total(fixed)
    longest = next((length for length in range(max(map(len, recalls), default=0), SHORTEST - 1, -1)
                    if sum(_recall(name, length).width + 2 for name in recalls) <= room), 0)
    if recalls and longest:
        chosen += [_recall(name, longest) for name in recalls]
    elif recalls and room - 2 >= len(LOWEST):
        chosen.append(Column(LOWEST, "validation", LOWEST, min(room - 2, 24)))
    return [*chosen, fixed[1]]


def _measure(name: str) -> Column:
    group, title = TITLES.get(name, ("validation", name))
    return Column(name, group, title, max(6 if group == "loss" else 5, len(title)))


def _recall(name: str, longest: int) -> Column:
    title = name.removeprefix("recall_")
    title = title if len(title) <= longest else title[:longest - 1] + "…"
    return Column(name, "sensitivity (validation)", title, max(SHORTEST, len(title)))


def _total(columns: Sequence[Column]) -> int:
    return sum(column.width + 2 for column in columns) - 2


def format_header(columns: Sequence[Column]) -> list[str]:
    """Returns the two lines above the table: what neighbors have in common, and the titles."""
    groups = []
    for group, members in groupby(columns, key=lambda column: column.group):
        span = _total(list(members))
        text = group if len(group) < span - 1 else group.partition(" ")[0][:span]
        groups.append((f" {text} " if len(text) < span - 1 else text).center(span, "-" if group else " "))
    return ["  ".join(groups).rstrip(), "  ".join(column.title.rjust(column.width) for column in columns)]


def format_row(columns: Sequence[Column], cells: dict[str, str | int]) -> str:
    """Returns an epoch as a line; `cells` are a row of the log, epoch and left as they are shown."""
    recalls = {name: float(value) for name, value in cells.items() if name.startswith("recall_")}
    lowest = min((name for name in recalls if recalls[name] == recalls[name]), key=recalls.get, default="")
    shown = {name: f"{float(value):.3f}" for name, value in cells.items() if name not in ("epoch", "left", "lr")}
    shown |= {"epoch": str(cells["epoch"]), "left": str(cells["left"]),
              "lr": f"{float(cells['lr']):.1e}".replace("e-0", "e-"),
              LOWEST: f"{recalls[lowest]:.3f} {lowest.removeprefix('recall_')}" if lowest else ""}
    return "  ".join(shown[column.key][:column.width].rjust(column.width) for column in columns)
