"""`python -m busfast` and torchrun without their start: processes forked from one that has imported busfast.

A test that needs the real programs starts them itself.
"""

import multiprocessing
import os
import signal
import sys
import time
from importlib import import_module
from pathlib import Path

from torch.distributed import TCPStore

from busfast import processes
from training.blank_curves import draw_blank_batch, draw_blank_curves

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload([
    "busfast.cli", "busfast.training.fit", "busfast.training.train", "busfast.training.resume",
    "busfast.training.batch_size", "busfast.training.trackers", "busfast.results.evaluation",
    "busfast.training.distributed.worker", "busfast.training.distributed.trainer"])


def start(argv, name="fork", env=None, setup=None):
    """Starts a command line in the working folder; its output goes to NAME.out and NAME.err.

    Args:
        argv: after `python -m busfast`.
        name: of the output files.
        env: environment variables to add.
        setup: an importable function, called before.
    """
    process = context.Process(target=_run, args=(argv, str(Path(name).absolute()), env or {}, setup))
    process.start()
    return process


def _run(argv, output, env, setup):
    for stream, ending in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{output}.{ending}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    os.environ.update(env)
    curves = import_module("busfast.training.curves")
    curves.draw_curves, curves.draw_batch = draw_blank_curves, draw_blank_batch
    if setup:
        setup()
    sys.exit(import_module("busfast.cli").main(argv))


class Ranks:
    """Ranks that train together, started and ended as torchrun does; this process hosts their store."""

    def __init__(self, count, argv, setup=None):
        self.store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
        shared = {"MASTER_ADDR": "localhost", "MASTER_PORT": self.store.port, "WORLD_SIZE": count,
                  "LOCAL_WORLD_SIZE": count, "TORCHELASTIC_USE_AGENT_STORE": True, "TORCHELASTIC_RESTART_COUNT": 0}
        self.processes = [
            start(argv, f"rank-{rank}", setup=setup,
                  env={key: str(value) for key, value in (shared | {"RANK": rank, "LOCAL_RANK": rank}).items()})
            for rank in range(count)]

    def wait(self, seconds=120):
        """Returns the exit statuses of the ranks and all that they printed; ends the others when one has failed."""
        deadline = time.monotonic() + seconds
        while any(process.is_alive() for process in self.processes) and time.monotonic() < deadline:
            time.sleep(0.05)
            if any(process.exitcode for process in self.processes):
                time.sleep(0.5)  # a real process takes that long to end, and torchrun to see it
                break
        processes.end_children(self.processes, max(0, deadline - time.monotonic()))
        texts = ["".join(Path(f"rank-{rank}.{ending}").read_text() for rank in range(len(self.processes)))
                 for ending in ("out", "err")]
        return [process.exitcode for process in self.processes], *texts
