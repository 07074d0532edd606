"""Training in several processes: rank 0 runs the command; the other ranks wait for its requests and train along."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable

from busfast import processes
from busfast.data.split_file import read_split
from busfast.errors import UserError
from busfast.imports import heavy_imports
from busfast.pipelines.config import Config
from busfast.text import plain_text
from busfast.training.runs import Run


def run_distributed(verb: str, call: Callable[[], None]) -> None:
    """Runs a verb in rank 0, and in the other ranks their share of each training; UserError for all verbs but train."""
    if verb != "train":
        raise UserError(f"{verb} runs in one process and was started in {processes.world_size()}. Start it "
                        f"without torchrun or accelerate: python -m busfast {verb} ...")
    from busfast.training.distributed import store
    from busfast.training.guards import NonFiniteLoss

    store.open_store()
    try:
        if processes.rank():
            with _silence():
                _serve_requests()
        else:
            call()
            store.send_request(None)
    except BaseException as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the launcher sends it to ranks that are ending by themselves
        if isinstance(error, store.ProcessLost | NonFiniteLoss):
            raise  # the lost rank prints why; every rank sees a loss that is not finite
        store.announce_failure()
        if processes.rank() and isinstance(error, UserError):
            print(f"busfast, process {processes.rank()} of {processes.world_size()}: {plain_text(str(error))}",
                  file=sys.stderr)
        raise


@contextlib.contextmanager
def _silence():
    """Only rank 0 prints."""
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null), contextlib.redirect_stderr(null):
        yield


def _serve_requests() -> None:
    """Trains this rank's share of each run that rank 0 trains."""
    with heavy_imports():
        from fastai.callback.progress import ProgressCallback

        from busfast.models.weights import StartWeights
        from busfast.training.build import build
        from busfast.training.distributed import store
        from busfast.training.distributed.collectives import process_group
        from busfast.training.fit import distributed_callbacks
        from busfast.training.guards import RaiseOnSignal, StopOnNaN, record_signals
        from busfast.training.recipe import recipe_callbacks

    while (request := store.next_request()) is not None:
        run, config = Run(request["run"]), Config(**request["config"])
        try:
            split = read_split(run.results / "split.csv", request["root"])
        except (OSError, UserError) as error:
            raise UserError(f"{run.results}/split.csv, which process 0 wrote, cannot be read here ({error}). "
                            "All machines must see the same folders.") from error
        learn = build(config, split, run.models, StartWeights(**request["weights"]))
        learn.remove_cbs(ProgressCallback)
        learn.metrics, learn.logger = [], lambda values: None
        store.barrier()
        with record_signals() as signals, process_group(learn.dls.device, signals):
            learn.fit(config.epochs, cbs=[*recipe_callbacks(config, learn), *distributed_callbacks(config, learn),
                                          StopOnNaN(None, config.lr), RaiseOnSignal(signals)])
