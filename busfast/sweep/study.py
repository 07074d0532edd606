"""The study of a sweep on disk: which trial comes next, what is known of those that are done.

Optuna's journal is a text file of JSON lines: nothing in it is unpickled. One process, the one that was started, writes
it; those that train side by side tell it their values.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.distributions import BaseDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, Trial, TrialState

from busfast.errors import UserError
from busfast.files import atomic
from busfast.pipelines.config import REMOVED, Config
from busfast.sweep.space import apply, own_values
from busfast.sweep.trial import Outcome, trial_name
from busfast.training.runs import Run

NAME, JOURNAL = "sweep", "journal.jsonl"
STATES = {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
FAILURES = 5  # in a row end a sweep: something is wrong with all of them
LOOKED_AT = 5  # finished trials before one is given up by comparison with them
# Only of the best trial: the others keep log, curves and configuration, a fraction of a megabyte.
LARGE = ("split.csv", "valid_predictions.csv", "checkpoint.pt", "checkpoint.previous.pt")


@dataclass(frozen=True)
class Request:
    """What a sweep was asked for, checked.

    Attributes:
        config: what is not varied, and the pipeline's own values of what is.
        space: key -> Optuna's distribution.
        trials: how many, those of an earlier start included.
        jobs: how many side by side.
        objective: the logged column that is to become as good as it can.
        pruner: "median" or "none".
    """

    config: Config
    space: dict[str, BaseDistribution]
    trials: int
    jobs: int
    objective: str
    pruner: str


class Sweep:
    """A study, and how many of its trials are still to come.

    Args:
        run: its folders.
        request: what is asked for.
        asked: the same in plain values, and what else must not change when it goes on.

    Raises:
        UserError: the journal is damaged, or was begun with something else.
    """

    def __init__(self, run: Run, request: Request, asked: dict[str, Any]):
        self.run, self.request, self.config = run, request, request.config
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        maximize = not request.objective.endswith("_loss")
        pruner = optuna.pruners.NopPruner()
        if request.pruner == "median":
            pruner = optuna.pruners.MedianPruner(LOOKED_AT, n_warmup_steps=max(1, self.config.epochs // 3))
        path = run.results / JOURNAL
        if path.is_file():
            mend(path)
        elif any(run.results.glob("trial-*")):
            raise UserError(f"{path} is gone, and there are trials beside it: they are left as they are. Leave out "
                            "--resume to begin a new sweep.")
        try:
            lock = JournalFileOpenLock(str(path))
            storage = JournalStorage(JournalFileBackend(str(path), lock))
            if path.stat().st_size:  # to create it again would be noted there
                self.study = optuna.load_study(storage=storage, study_name=NAME, pruner=pruner)
            else:
                self.study = optuna.create_study(storage=storage, study_name=NAME, pruner=pruner,
                                                 direction="maximize" if maximize else "minimize")
            known = self.study.user_attrs.get("asked")
        except OSError as error:
            raise UserError(f"Cannot write {path}: {error.strerror}. Run where you may write.") from error
        except Exception as error:  # whatever a line of it may hold
            raise UserError(f"{path} is damaged ({type(error).__name__}: {error}). Leave out --resume to begin a new "
                            "sweep.") from error
        if known is None:
            self.study.set_user_attr("asked", asked)
        else:
            check_same(run, known, asked)
        self.own, self.outside = own_values(request.space, self.config)
        self.interrupt()  # what still runs there: its process is gone

    def trials(self) -> list[FrozenTrial]:
        """Returns all trials that count: those that were interrupted are begun again under another number."""
        return [trial for trial in self.study.get_trials(deepcopy=False)
                if trial.state != TrialState.WAITING and not interrupted(trial)]

    def done(self) -> list[FrozenTrial]:
        """Returns those that are over."""
        return [trial for trial in self.trials() if trial.state.is_finished()]

    def next(self) -> tuple[Trial, Config] | None:
        """Begins the next trial, if one is left.

        The first one has the pipeline's own values, where they are in the space. What is drawn depends on the seed, on
        the trial's place and on the values of those that are done, so that a sweep that was stopped goes on to the same
        trials: what was interrupted leaves its place free.
        """
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

    def hear(self, trial: Trial, epoch: int, value: float) -> bool:
        """Notes a trial's value after an epoch; returns whether to give it up."""
        trial.report(value, epoch)
        return trial.should_prune()

    def conclude(self, trial: Trial, outcome: Outcome) -> FrozenTrial:
        """Writes down how a trial ended; keeps the weights of the best one alone."""
        trial.set_user_attr("outcome", {"state": outcome.state, "epoch": outcome.epoch, "minutes": outcome.minutes,
                                        "reason": outcome.reason})
        finished = outcome.state == "finished"
        told = self.study.tell(trial, outcome.value if finished else None, state=STATES[outcome.state])
        self.tidy()
        return told

    def interrupt(self) -> None:
        """Writes down that the trials that run are interrupted; they are to be begun again."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self.study.tell(trial.number, state=TrialState.FAIL)
        self.tidy()

    def check_failures(self) -> None:
        """Ends a sweep in which nothing works.

        Raises:
            UserError: the last trials failed, all of them.
        """
        last = sorted(self.done(), key=lambda trial: trial.datetime_complete)[-FAILURES:]
        if len(last) == FAILURES and all(trial.state == TrialState.FAIL for trial in last):
            reason = last[-1].user_attrs["outcome"]["reason"]
            raise UserError(f"{FAILURES} trials in a row failed, the last of them: {reason}\nWhat each of them "
                            f"said is in {self.run.results}/trial-*.txt. Once that is mended, the same command with "
                            "--resume goes on.")

    def best(self) -> FrozenTrial | None:
        """Returns the best finished trial."""
        try:
            return self.study.best_trial
        except ValueError:  # none is finished
            return None

    def tidy(self) -> None:
        """Removes weights of trials that are over and not the best, and all of those that were interrupted."""
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
                for file in LARGE:
                    (self.run.results / name / file).unlink(missing_ok=True)

    def table(self) -> pd.DataFrame:
        """Returns a row a trial: number, state, the values drawn, the objective's value, epoch, minutes, reason."""
        rows = []
        for trial in self.study.get_trials(deepcopy=False):
            known = trial.user_attrs.get("outcome", {})
            state = "interrupted" if interrupted(trial) else known.get("state", "running")
            rows.append({"trial": trial.number, "state": state, **{key: trial.params.get(key) for key in self.own},
                         self.request.objective: trial.value, "epoch": known.get("epoch"),
                         "minutes": known.get("minutes"), "reason": known.get("reason", "")})
        columns = ["trial", "state", *self.own, self.request.objective, "epoch", "minutes", "reason"]
        return pd.DataFrame(rows, columns=columns).astype({"epoch": "Int64"})


def interrupted(trial: FrozenTrial) -> bool:
    """Returns whether a trial ended without an outcome of its own."""
    return trial.state == TrialState.FAIL and trial.user_attrs.get("outcome", {}).get("state") != "failed"


def mend(path: Path) -> None:
    """Takes off half a line that a killed process or a full disk left at the end of a journal.

    Raises:
        UserError: it is no journal.
    """
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)  # of a process that was killed; nobody else has it now
    whole, end, rest = path.read_bytes().rpartition(b"\n")
    try:
        if not all(isinstance(json.loads(line), dict) for line in whole.splitlines()) or (rest and not whole):
            raise ValueError("a line is no record")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no journal of a sweep, or is damaged ({error}). Leave out --resume to begin a new "
                        "sweep.") from error
    if rest:
        with atomic(path, "wb") as file:
            file.write(whole + end)


def check_same(run: Run, known: dict[str, Any], asked: dict[str, Any]) -> None:
    """Refuses to go on with a sweep that was begun with something else."""
    differ = [f"{key} is {known.get(key)} there and {asked.get(key)} here" for key in {**known, **asked}
              if known.get(key) != asked.get(key) and (known.get(key) or key not in REMOVED)]
    if differ:
        raise UserError(f"{run.name} cannot go on with something else: {'; '.join(differ)}. Give the same command, or "
                        "leave out --resume to begin a new sweep.")
