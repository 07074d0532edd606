"""One trial of a sweep: trained by the very code that trains a run, on the training and the validation part alone."""

import gc
import math
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass

import pandas as pd
import torch
from fastai.callback.core import Callback, CancelFitException

from busfast.pipelines.config import Config
from busfast.training.runs import Run
from busfast.training.train import train_run
from busfast.training.training_state import Checkpoint
from busfast.yamlfile import read_yaml

SHOWN = 300  # signs of a reason


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        state: "finished", "pruned" or "failed".
        value: of the objective at the epoch that the run's monitor chose, or after which it was pruned; None where it
            failed.
        epoch: that epoch, from 1.
        minutes: that it took.
        reason: why it failed.
    """

    state: str
    value: float | None = None
    epoch: int | None = None
    minutes: float = 0.0
    reason: str = ""


class Report(Callback):
    """Tells the objective's value after each epoch, and ends the fit where the answer is that it is hopeless.

    Args:
        objective: a logged column.
        tell: epoch (from 1), value -> whether to give up.
    """

    order = Checkpoint.order  # after it, and before early stopping can end the fit

    def __init__(self, objective: str, tell: Callable[[int, float], bool]):
        self.objective, self.tell, self.values, self.pruned = objective, tell, {}, False

    def after_epoch(self):
        done = self.epoch + 1
        self.values[done] = float(self.training_log.rows[-1][self.objective])
        if self.tell(done, self.values[done]) and done < self.n_epoch:  # a whole trial counts as one
            self.pruned = self.early_stopping.stopped = True
            print(f"pruned after epoch {done}", flush=True)
            raise CancelFitException


def train_trial(sweep: Run, number: int, config: Config, parts: pd.DataFrame, objective: str,
                tell: Callable[[int, float], bool]) -> Outcome:
    """Trains a trial; what it says on the way goes to results/SWEEP/trial-NUMBER.txt.

    Args:
        sweep: the sweep's folders; the trial's lie in them.
        number: Optuna's number of the trial.
        config: the trial's configuration.
        parts: the split table, without its test part.
        objective, tell: as those of `Report`.

    Returns:
        How it ended; an error, too, is an outcome.
    """
    began, report, name = time.monotonic(), Report(objective, tell), trial_name(number)
    try:
        with (open(sweep.results / f"{name}.txt", "w", encoding="utf-8") as said, redirect_stdout(said),
              redirect_stderr(said)):
            run = train_run(sweep.name, config, name, parts, callbacks=[report])
        epoch = max(report.values) if report.pruned else read_yaml(run.results / "summary.yaml")["best_epoch"]
        value = report.values.get(epoch, math.nan)
        if math.isnan(value):
            outcome = Outcome("failed", reason=f"no epoch was best, or it has no {objective} that is a number")
        else:
            outcome = Outcome("pruned" if report.pruned else "finished", value, epoch)
    except Exception as error:  # another trial may do better, whatever was wrong with this one
        reason = " ".join((str(error).strip() or type(error).__name__).split())
        outcome = Outcome("failed", reason=reason[:SHOWN])
    gc.collect()  # a trial that ran out of memory leaves it to the next one
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return Outcome(outcome.state, outcome.value, outcome.epoch, (time.monotonic() - began) / 60, outcome.reason)


def trial_name(number: int) -> str:
    """Returns the name of a trial's folders and files."""
    return f"trial-{number:03}"
