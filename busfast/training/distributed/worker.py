"""Training in several processes: the first one does all that one alone would; the others follow it when it trains."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable

from busfast import processes
from busfast.data.split_file import read_split
from busfast.errors import UserError
from busfast.pipelines.config import Config
from busfast.text import plain_text
from busfast.training.runs import Run


def run_distributed(verb: str, call: Callable[[], None]) -> None:
    """Runs a verb in the first of several processes, and what it needs of the others in those.

    Args:
        verb: must be train.
        call: runs it.

    Raises:
        UserError: another verb; whatever the verb raises.
    """
    if verb != "train":
        raise UserError(f"{verb} runs in one process and was started in {processes.world_size()}. Start it "
                        f"without torchrun or accelerate: python -m busfast {verb} ...")
    from busfast.training.distributed import store
    from busfast.training.guards import NonFiniteLoss

    store.open_store()
    try:
        if processes.rank():
            with _silence():
                _follow()
        else:
            call()
            store.send_job(None)
    except BaseException as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the starter sends it to those that still end by themselves
        if isinstance(error, store.ProcessLost | NonFiniteLoss):
            raise  # whoever was lost says why; of a loss that is no number the first process knows, too
        store.announce_failure()
        if processes.rank() and isinstance(error, UserError):
            print(f"busfast, process {processes.rank()} of {processes.world_size()}: {plain_text(str(error))}",
                  file=sys.stderr, flush=True)
        raise


@contextlib.contextmanager
def _silence():
    """The first process says everything."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield


def _follow() -> None:
    """Trains its share of whatever the first process trains."""
    from fastai.callback.progress import ProgressCallback

    from busfast.models.weights import StartWeights
    from busfast.training.distributed import store
    from busfast.training.fit import distributed_callbacks, schedule_callbacks
    from busfast.training.guards import RaiseOnSignal, StopOnNaN, record_signals
    from busfast.training.train import build

    while (job := store.next_job()) is not None:
        run, config = Run(job["run"]), Config(**job["config"])
        try:
            parts = read_split(run.results / "split.csv", job["root"])
        except (OSError, UserError) as error:
            raise UserError(f"{run.results}/split.csv, which the first process wrote, cannot be read here ({error}). "
                            "All machines need to see the same folders.") from error
        learn = build(config, parts, run.models, StartWeights(**job["weights"]))
        learn.remove_cbs(ProgressCallback)
        learn.metrics, learn.logger = [], lambda values: None
        store.barrier()
        with record_signals() as signals, store.process_group(learn.dls.device, signals):
            learn.fit(config.epochs, cbs=[*schedule_callbacks(config, learn), *distributed_callbacks(config, learn),
                                          StopOnNaN(None, config.lr), RaiseOnSignal(signals)])
