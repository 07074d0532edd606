"""The fit of a run, with all its callbacks; how it ended is written down, whatever happens."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pandas as pd
from fastai.callback.core import Callback
from fastai.callback.progress import ProgressCallback
from fastai.learner import Learner

from busfast import processes
from busfast.csvfile import write_csv
from busfast.errors import UserError
from busfast.models.freeze import FreezeStages, should_freeze
from busfast.models.learner import cosine
from busfast.pipelines.config import Config
from busfast.text import counted
from busfast.training.batch_size import is_out_of_memory
from busfast.training.callbacks import EarlyStopping, SaveBest, SaveFinal, WarnCollapse, monitor_with
from busfast.training.checkpoint import remove_checkpoints
from busfast.training.distributed.store import process_group
from busfast.training.finish import finish_run, print_summary
from busfast.training.guards import NonFiniteLoss, RaiseOnSignal, StopOnNaN, record_signals
from busfast.training.log import PlainProgress, TrainingLog, on_terminal
from busfast.training.profile import Profile
from busfast.training.runs import DONE, Run, write_record
from busfast.training.training_state import Checkpoint, Resume


def schedule_callbacks(config: Config, learn: Learner) -> list[Callback]:
    """Returns the callbacks that decide how a model is trained, in each of the processes that do."""
    callbacks = [cosine(config.lr, config.lr_min)]
    if config.freeze_after and should_freeze(config.freeze, learn.weights_used["text"]):
        callbacks.append(FreezeStages(config.freeze, config.freeze_after, config.arch))
    return callbacks


def distributed_callbacks(config: Config, learn: Learner) -> list[Callback]:
    """Returns the callbacks that make several processes train one model, called while they are `process_group`."""
    if processes.world_size() == 1:
        return []
    from busfast.training.distributed.trainer import (  # Accelerate: one process does without
        BroadcastState,
        ExactDistributedTrainer,
        SyncEarlyStopping,
    )

    return [ExactDistributedTrainer(learn.dls.device, config.seed), BroadcastState(), SyncEarlyStopping()]


def fit_run(run: Run, config: Config, parts: pd.DataFrame, learn: Learner, phantom: bool, state: dict[str, Any] | None,
            profile: bool, smaller: int, command: str, more: Sequence[Callback] = ()) -> None:
    """Trains a run from the beginning, or from a checkpoint on, and ends it.

    Args:
        run, config, parts: of `busfast.training.resume.Job`.
        learn: as `busfast.training.train.build` makes it.
        phantom: whether its images are synthetic.
        state: the checkpoint; None: from the beginning.
        profile: print after each epoch where its time went, and write profile.csv.
        smaller: a batch size that fits if `config.bs` does not, for the error.
        command: what trains the run, to be typed again with --resume.
        more: callbacks besides those of every run.

    Raises:
        UserError: a loss that is no number, not enough memory, an image that cannot be read, a file that cannot be
            written.
    """
    monitor = monitor_with(config.monitor, config.measures)
    schedule = cosine(config.lr, config.lr_min).scheds["lr"]
    caption = f"{run.name}, {config.arch}, {config.size} px" + (", PHANTOM (synthetic images)" if phantom else "")
    log = TrainingLog(run.results, schedule, caption)
    best, stop = SaveBest(run.models / "best.pth", **monitor), EarlyStopping(**monitor, patience=config.patience)
    saved = Checkpoint(run.models)
    callbacks = [*schedule_callbacks(config, learn), log, best, stop, saved, SaveFinal(run.models / "final.pth"),
                 WarnCollapse(), StopOnNaN(run.results, config.lr), *more]
    phases = Profile()
    if profile:
        callbacks.append(phases)
    if not on_terminal():
        learn.remove_cbs(ProgressCallback)
        callbacks.append(PlainProgress())
    if state is not None:
        callbacks.append(Resume(state))
    how, again = "failed", f"\n  to go on: {command} --resume"

    def summary(state: str) -> dict[str, Any]:
        return {"state": state, "epochs": len(getattr(log, "rows", [])), "best_epoch": best.best_epoch,
                "monitor": config.monitor, "minutes": round(saved.seconds / 60, 2)}

    try:
        with record_signals() as signals, process_group(learn.dls.device, signals):
            learn.fit(config.epochs, cbs=[*callbacks, *distributed_callbacks(config, learn), RaiseOnSignal(signals)])
        if profile:
            write_csv(pd.DataFrame(phases.rows), run.results / "profile.csv", float_format="%.4f")
        done = summary("stopped early" if stop.stopped else "finished")
        finish_run(run, done, config, parts, best.probabilities)
        how = done["state"]
    except (KeyboardInterrupt, SystemExit):
        how = "interrupted"
        raise
    except Exception as error:
        if is_out_of_memory(error):
            again = ""
            said = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise UserError(f"Out of memory with --bs={config.bs} ({said}). A new run with --bs={smaller} should fit; "
                            "--bs=auto chooses by itself.") from error
        again = "" if isinstance(error, NonFiniteLoss) else again
        raise
    finally:
        if how not in DONE:
            print(f"\n{how} after {counted(len(getattr(log, 'rows', [])), 'epoch')}; what was written stays in "
                  f"{run.results}/ and {run.models}/{again}", flush=True)
            with suppress(UserError):  # its error counts, not one of writing the summary (a full disk gives both)
                write_record(run.results / "summary.yaml", summary(how))
    # Last of all and out here, where an interruption cannot call a run unfinished whose checkpoints are gone.
    with suppress(OSError):
        remove_checkpoints(run.models)
    print_summary(run, log.rows, best, config, phantom)
