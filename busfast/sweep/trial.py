"""One trial of a sweep: trained as a run is, on the training and the validation part only."""

import gc
import math
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace

import torch
from fastai.callback.core import Callback, CancelFitException

from busfast.data.split import Split
from busfast.pipelines.config import Config
from busfast.training.job import TrainOptions
from busfast.training.runs import Run
from busfast.training.train import train_run
from busfast.training.training_state import Checkpoint
from busfast.yamlfile import read_yaml

MAX_REASON = 300  # characters of an error that are kept


@dataclass(frozen=True)
class Outcome:
    """How a trial ended."""

    state: str  # "finished", "pruned" or "failed"
    value: float | None = None  # of the objective, at `epoch`; None: it failed
    epoch: int | None = None  # from 1; chosen by the run's monitor, or the last one of a pruned trial
    minutes: float = 0.0
    reason: str = ""  # why it failed


class TrialPruning(Callback):
    """Reports the objective, a logged column, after each epoch (from 1); ends the fit if `report` says to prune it."""

    order = Checkpoint.order  # after it, and before early stopping can end the fit

    def __init__(self, objective: str, report: Callable[[int, float], bool]):
        self.objective, self.report, self.values, self.pruned = objective, report, {}, False

    def after_epoch(self):
        done = self.epoch + 1
        self.values[done] = float(self.training_log.rows[-1][self.objective])
        if self.report(done, self.values[done]) and done < self.n_epoch:  # after the last epoch it is finished
            self.pruned = self.early_stopping.stopped = True
            print(f"pruned after epoch {done}")
            raise CancelFitException


def train_trial(sweep: Run, number: int, config: Config, split: Split, objective: str,
                report: Callable[[int, float], bool]) -> Outcome:
    """Trains a trial on a split without its test part; its output goes to results/SWEEP/trial-NUMBER.txt.
    An error is an outcome, too. `report` as that of `TrialPruning`."""
    started, pruning, name = time.monotonic(), TrialPruning(objective, report), trial_name(number)
    try:
        with (open(sweep.results / f"{name}.txt", "w", buffering=1, encoding="utf-8") as log, redirect_stdout(log),
              redirect_stderr(log)):
            run = train_run(sweep.name, config, name, split, TrainOptions(callbacks=[pruning]))
        epoch = max(pruning.values) if pruning.pruned else read_yaml(run.results / "summary.yaml")["best_epoch"]
        value = pruning.values.get(epoch, math.nan)
        if math.isnan(value):
            outcome = Outcome("failed", reason=f"no best epoch, or its {objective} is not a number")
        else:
            outcome = Outcome("pruned" if pruning.pruned else "finished", value, epoch)
    except Exception as error:  # other trials may succeed
        reason = " ".join((str(error).strip() or type(error).__name__).split())
        outcome = Outcome("failed", reason=reason[:MAX_REASON])
    gc.collect()  # frees what a trial that ran out of memory held
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return replace(outcome, minutes=(time.monotonic() - started) / 60)


def trial_name(number: int) -> str:
    """Returns the name of a trial's folders and files."""
    return f"trial-{number:03}"
