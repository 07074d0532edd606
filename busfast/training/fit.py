"""The fit of a run with all its callbacks; how it ended is written to summary.yaml in any case."""

import sys
from contextlib import suppress
from typing import Any

import pandas as pd
import torch
from fastai.callback.core import Callback
from fastai.callback.progress import ProgressCallback
from fastai.learner import Learner
from fastcore.imports import in_notebook

from busfast import processes
from busfast.csvfile import write_csv
from busfast.errors import UserError
from busfast.models.schedules import make_schedule
from busfast.pipelines.config import Config
from busfast.text import counted
from busfast.training.batch_pictures import BatchPictures
from busfast.training.batch_size import is_out_of_memory
from busfast.training.callbacks import EarlyStopping, SaveBest, SaveFinal, WarnCollapse, monitor_with
from busfast.training.checkpoint import remove_checkpoints
from busfast.training.distributed.collectives import process_group
from busfast.training.finish import finish_run, print_summary
from busfast.training.guards import NonFiniteLoss, RaiseOnSignal, StopOnNaN, record_signals
from busfast.training.job import Job, TrainOptions
from busfast.training.log import PlainProgress, TrainingLog
from busfast.training.profile import Profile
from busfast.training.recipe import recipe_callbacks
from busfast.training.runs import train_command, write_record
from busfast.training.screen import TableProgress
from busfast.training.threads import GiveWay
from busfast.training.training_state import Checkpoint, Resume


def distributed_callbacks(config: Config, learn: Learner) -> list[Callback]:
    """Returns the callbacks that make several ranks train one model; call it within `process_group`."""
    if processes.world_size() == 1:
        return []
    from busfast.training.distributed.trainer import (  # needs Accelerate
        BroadcastState,
        ExactDistributedTrainer,
        SyncEarlyStopping,
    )

    return [ExactDistributedTrainer(learn.dls.device, config.seed), BroadcastState(), SyncEarlyStopping()]


def fit_run(job: Job, learn: Learner, phantom: bool, smaller_bs: int, options: TrainOptions) -> None:
    """Trains a run from the first epoch or from a checkpoint, and writes what it ends with.

    Args:
        job: the run, with its record.
        learn: as `busfast.training.build.build` makes it.
        phantom: whether the images are synthetic.
        smaller_bs: a batch size that should fit if the configured one does not, for the error.
        options: those of `train_run`.

    Raises:
        UserError: a loss that is not finite, too little memory, an unreadable image, a file that cannot be written.
    """
    run, config = job.run, job.config
    monitor = monitor_with(config.monitor, config.measures)
    schedule = make_schedule(config.schedule, config.lr, config.lr_min, warmup=config.warmup / config.epochs)
    size = f"{config.size} x {config.width}" if config.width else config.size
    caption = f"{run.name}, {config.arch}, {size} px" + (", PHANTOM (synthetic images)" if phantom else "")
    log, collapse, phases = TrainingLog(run.results, schedule.scheds["lr"], caption), WarnCollapse(), Profile()
    best, stop = SaveBest(run.models / "best.pth", **monitor), EarlyStopping(**monitor, patience=config.patience)
    checkpoint = Checkpoint(run.models, log, best, collapse)
    callbacks = [*recipe_callbacks(config, learn), log, best, stop, checkpoint, SaveFinal(run.models / "final.pth"),
                 collapse, StopOnNaN(run.results, config.lr), GiveWay(),
                 BatchPictures(run.results, config.classes, caption), *options.callbacks]
    if options.profile:
        callbacks.append(phases)
    table = TableProgress(log, best, options.turn)
    if not in_notebook():
        learn.remove_cbs(ProgressCallback)
        callbacks.append(table if sys.stdout.isatty() else PlainProgress(log))
    if job.state is not None:
        callbacks.append(Resume(job.state, checkpoint, stop))
    command = options.command or train_command(run, job.record)
    outcome, way_on = "failed", f"\n  to continue: {command} --resume"

    def summary() -> dict[str, Any]:
        return {"state": outcome, "epochs": len(log.rows), "best_epoch": best.best_epoch,
                "monitor": config.monitor, "minutes": round(checkpoint.seconds / 60, 2),
                "threads": torch.get_num_threads()}

    try:
        with record_signals() as signals, process_group(learn.dls.device, signals):
            learn.fit(config.epochs, cbs=[*callbacks, *distributed_callbacks(config, learn), RaiseOnSignal(signals)])
        if options.profile:
            write_csv(pd.DataFrame(phases.rows), run.results / "profile.csv", float_format="%.4f")
        outcome = "stopped early" if stop.stopped else "finished"
        finish_run(run, summary(), config, job.split, best.probabilities)
    except BaseException as error:
        table.close()
        outcome = "failed" if isinstance(error, Exception) else "interrupted"
        out_of_memory = isinstance(error, Exception) and is_out_of_memory(error)
        if out_of_memory or isinstance(error, NonFiniteLoss) or (outcome == "interrupted" and options.command):
            way_on = ""  # it would end in the same way, or the caller says it
        print(f"\n{outcome} after {counted(len(log.rows), 'epoch')}; what was written stays in "
              f"{run.results}/ and {run.models}/{way_on}")
        with suppress(UserError):  # a full disk gives both; the first error counts
            write_record(run.results / "summary.yaml", summary())
        if out_of_memory:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise UserError(f"Out of memory with --bs={config.bs} ({reason}). A new run with --bs={smaller_bs} should "
                            "fit; --bs=auto chooses a batch size that fits.") from error
        raise
    # After the try block: an interruption here must not mark a run as unfinished whose checkpoints are gone.
    with suppress(OSError):
        remove_checkpoints(run.models)
    print_summary(run, log.rows, best, config, phantom)
