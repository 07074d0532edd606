"""The Optuna study of a sweep on disk: which trial comes next, and how the others ended.

Optuna's journal is a text file of JSON lines; nothing in it is unpickled. Only one process writes it: see workers.py.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, Trial, TrialState

from busfast.errors import UserError
from busfast.files import atomic
from busfast.pipelines.config import Config
from busfast.pipelines.pipeline_file import REMOVED
from busfast.sweep.request import Request
from busfast.sweep.space import apply, own_values
from busfast.sweep.trial import Outcome, trial_name
from busfast.training.runs import Run

NAME, JOURNAL = "sweep", "journal.jsonl"
STATES = {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
MAX_FAILURES = 5  # in a row, which end a sweep
STARTUP_TRIALS = 5  # finished trials before the first is pruned
# Kept for the best trial only; the others keep log, curves and configuration, a fraction of a megabyte.
LARGE_FILES = ("split.csv", "valid_predictions.csv", "checkpoint.pt", "checkpoint.previous.pt")


class Sweep:
    """The study of a sweep, in the folders of `run`.
    UserError if the journal is damaged, or was begun with other `fixed` settings, which must not change on resume."""

    def __init__(self, run: Run, request: Request, fixed: dict[str, Any]):
        self.run, self.request, self.config = run, request, request.config
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        maximize = not request.objective.endswith("_loss")
        pruner = optuna.pruners.NopPruner()
        if request.pruner == "median":
            pruner = optuna.pruners.MedianPruner(STARTUP_TRIALS, n_warmup_steps=max(1, self.config.epochs // 3))
        path = run.results / JOURNAL
        if path.is_file():
            repair_journal(path)
        elif any(run.results.glob("trial-*")):
            raise UserError(f"{path} is missing. Restore it, or leave out --resume to begin a new sweep; the trials "
                            "beside it stay.")
        try:
            lock = JournalFileOpenLock(str(path))
            storage = JournalStorage(JournalFileBackend(str(path), lock))
            if path.stat().st_size:  # creating it again would be written to the journal
                self.study = optuna.load_study(storage=storage, study_name=NAME, pruner=pruner)
            else:
                self.study = optuna.create_study(storage=storage, study_name=NAME, pruner=pruner,
                                                 direction="maximize" if maximize else "minimize")
            begun = self.study.user_attrs.get("asked")
        except OSError as error:
            raise UserError(f"Cannot write {path}: {error.strerror}. Run in a folder that you may write to.") from error
        except Exception as error:  # a line of it may hold anything
            raise UserError(f"{path} is damaged ({type(error).__name__}: {error}). Leave out --resume to begin a new "
                            "sweep.") from error
        if begun is None:
            self.study.set_user_attr("asked", fixed)
        else:
            check_unchanged(run, begun, fixed)
        self.own, self.outside = own_values(request.space, self.config)
        self.interrupt()  # the process of trials that still run there is gone

    def trials(self) -> list[FrozenTrial]:
        """Returns all trials but the interrupted ones, which are repeated under another number."""
        return [trial for trial in self.study.get_trials(deepcopy=False)
                if trial.state != TrialState.WAITING and not interrupted(trial)]

    def done(self) -> list[FrozenTrial]:
        """Returns the trials that finished, were pruned or failed."""
        return [trial for trial in self.trials() if trial.state.is_finished()]

    def next(self) -> tuple[Trial, Config] | None:
        """Begins the next trial, if one is left. The first has the pipeline's own values, if they are in the space.
        Those of the others depend on the seed, the trial's place and the outcomes so far. An interrupted trial frees
        its place, so that a resumed sweep draws the same trials."""
        taken = {trial.user_attrs.get("place") for trial in self.trials()}
        place = next((place for place in range(self.request.trials) if place not in taken), None)
        if place is None:
            return None
        seed = int(np.random.SeedSequence([self.config.seed, place]).generate_state(1)[0])
        self.study.sampler = optuna.samplers.TPESampler(seed=seed)
        waiting = self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        if place == 0 and not self.outside and not waiting:
            self.study.enqueue_trial(self.own)
        trial = self.study.ask(fixed_distributions=self.request.space)
        trial.set_user_attr("place", place)
        return trial, apply(self.config, trial.params)

    def report(self, trial: Trial, epoch: int, value: float) -> bool:
        """Records a trial's value after an epoch; returns whether to prune it."""
        trial.report(value, epoch)
        return trial.should_prune()

    def conclude(self, trial: Trial, outcome: Outcome) -> FrozenTrial:
        """Records how a trial ended; keeps the weights of the best trial only."""
        trial.set_user_attr("outcome", {"state": outcome.state, "epoch": outcome.epoch, "minutes": outcome.minutes,
                                        "reason": outcome.reason})
        value = outcome.value if outcome.state == "finished" else None
        concluded = self.study.tell(trial, value, state=STATES[outcome.state])
        self.remove_weights()
        return concluded

    def interrupt(self) -> None:
        """Records the running trials as interrupted, so that they are repeated."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self.study.tell(trial.number, state=TrialState.FAIL)
        self.remove_weights()

    def check_failures(self) -> None:
        """Ends a sweep in which nothing works: raises UserError if the last `MAX_FAILURES` trials failed."""
        last = sorted(self.done(), key=lambda trial: trial.datetime_complete)[-MAX_FAILURES:]
        if len(last) == MAX_FAILURES and all(trial.state == TrialState.FAIL for trial in last):
            reason = last[-1].user_attrs["outcome"]["reason"]
            raise UserError(f"{MAX_FAILURES} trials in a row failed, the last of them: {reason}\nTheir output is in "
                            f"{self.run.results}/trial-*.txt. Fix the cause, then continue with --resume.")

    def best(self) -> FrozenTrial | None:
        """Returns the best finished trial."""
        try:
            return self.study.best_trial
        except ValueError:  # none is finished
            return None

    def remove_weights(self) -> None:
        """Removes the weights of all trials that ended but the best, and all files of interrupted ones."""
        best = self.best()
        for trial in self.study.get_trials(deepcopy=False):
            if not trial.state.is_finished() or (best and trial.number == best.number):
                continue
            name = trial_name(trial.number)
            shutil.rmtree(self.run.models / name, ignore_errors=True)
            if interrupted(trial):
                shutil.rmtree(self.run.results / name, ignore_errors=True)
                (self.run.results / f"{name}.txt").unlink(missing_ok=True)
            else:
                for file in LARGE_FILES:
                    (self.run.results / name / file).unlink(missing_ok=True)

    def table(self) -> pd.DataFrame:
        """Returns trials.csv, one row per trial: number, state, values, objective, epoch, minutes, reason."""
        rows = []
        for trial in self.study.get_trials(deepcopy=False):
            outcome = trial.user_attrs.get("outcome", {})
            state = "interrupted" if interrupted(trial) else outcome.get("state", "running")
            rows.append({"trial": trial.number, "state": state, **{key: trial.params.get(key) for key in self.own},
                         self.request.objective: trial.value, "epoch": outcome.get("epoch"),
                         "minutes": outcome.get("minutes"), "reason": outcome.get("reason", "")})
        columns = ["trial", "state", *self.own, self.request.objective, "epoch", "minutes", "reason"]
        return pd.DataFrame(rows, columns=columns).astype({"epoch": "Int64"})


def interrupted(trial: FrozenTrial) -> bool:
    """Returns whether a trial ended without an outcome."""
    return trial.state == TrialState.FAIL and trial.user_attrs.get("outcome", {}).get("state") != "failed"


def repair_journal(path: Path) -> None:
    """Removes an incomplete last line, left by a killed process or a full disk; UserError if it is not a journal."""
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)  # of a killed process; `lock_run` keeps others out
    lines, newline, incomplete = path.read_bytes().rpartition(b"\n")
    try:
        if not all(isinstance(json.loads(line), dict) for line in lines.splitlines()) or (incomplete and not lines):
            raise ValueError("a line is not a record")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged, or not the journal of a sweep ({error}). Leave out --resume to begin a "
                        "new sweep.") from error
    if incomplete:
        with atomic(path, "wb") as file:
            file.write(lines + newline)


def check_unchanged(run: Run, begun: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuses to resume a sweep with other settings than it was begun with."""
    changes = [f"{key} was {begun.get(key)} and is now {now.get(key)}" for key in {**begun, **now}
               if begun.get(key) != now.get(key) and (begun.get(key) or key not in REMOVED)]
    if changes:
        raise UserError(f"{run.name} cannot be resumed with other settings: {'; '.join(changes)}. Repeat the original "
                        "command, or leave out --resume to begin a new sweep.")
