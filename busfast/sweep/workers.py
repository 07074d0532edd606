"""Trials side by side, each worker a process of its own with its share of the processor's cores."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from typing import Any

import pandas as pd
import torch
from optuna.trial import Trial

from busfast.pipelines.config import Config
from busfast.processes import share_cores
from busfast.sweep.trial import Outcome, train_trial
from busfast.training.runs import Run

PATIENCE = 20  # seconds that a worker has to end


def run_workers(jobs: int, sweep: Run, parts: pd.DataFrame, objective: str,
                begin: Callable[[], tuple[Trial, Config] | None], hear: Callable[[Trial, int, float], bool],
                conclude: Callable[[Trial, Outcome], None]) -> None:
    """Keeps `jobs` workers busy until there is no trial left.

    Args:
        jobs: number of processes.
        sweep, parts, objective: as those of `train_trial`.
        begin: returns the next trial and its configuration, or None.
        hear: trial, epoch, value -> whether to give it up.
        conclude: is told a trial and its outcome.
    """
    spawn, idle, started = multiprocessing.get_context("spawn"), [], []
    busy: dict[Any, tuple] = {}  # a pipe -> its process, the process' number, the trial
    sys.warnoptions.append("ignore:`torch.jit.script` is deprecated")  # fastai's import, in the workers
    try:
        while True:
            while len(busy) < jobs and (following := begin()):
                trial, config = following
                if not idle:
                    ours, theirs = spawn.Pipe()
                    taken = {number for _, number, _ in busy.values()}
                    number = next(number for number in range(jobs) if number not in taken)
                    process = spawn.Process(target=_serve, args=(theirs, number, jobs, sweep, parts, objective))
                    process.start()
                    theirs.close()  # so that ours ends with the process
                    started.append(process)
                    idle.append((ours, process, number))
                ours, process, number = idle.pop()
                ours.send((trial.number, config))
                busy[ours] = (process, number, trial)
            if not busy:
                return
            ready: list[Any] = wait(list(busy))
            for ours in ready:
                process, number, trial = busy[ours]
                try:
                    said = ours.recv()
                except EOFError:
                    process.join()
                    del busy[ours]
                    conclude(trial, Outcome("failed", reason=_say_end(process.exitcode)))
                    continue
                if isinstance(said, Outcome):
                    del busy[ours]
                    idle.append((ours, process, number))
                    conclude(trial, said)
                else:
                    ours.send(hear(trial, *said))
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.join(PATIENCE)
            if process.is_alive():
                process.kill()
                process.join()


def _say_end(code: int) -> str:
    killed = " (killed by the system: probably out of memory; try fewer --jobs or a smaller bs)" if code == -9 else ""
    return f"its process ended with status {code}{killed}"


def _serve(connection: Connection, number: int, jobs: int, sweep: Run, parts: pd.DataFrame, objective: str) -> None:
    """A worker: trains what it is sent until it is ended; the process that started it alone hears of Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that temporary files are removed
    threading.Thread(target=_end_with_parent, daemon=True).start()
    share = share_cores(jobs)
    torch.set_num_threads(share)
    if torch.cuda.is_available():
        torch.cuda.set_device(number % torch.cuda.device_count())

    def tell(epoch: int, value: float) -> bool:
        connection.send((epoch, value))
        return connection.recv()

    while True:
        trial, config = connection.recv()
        config = replace(config, threads=config.threads or share)
        connection.send(train_trial(sweep, trial, config, parts, objective, tell))


def _end_with_parent() -> None:
    """Ends this process where its parent was killed: nobody would hear of the trial."""
    multiprocessing.parent_process().join()
    os._exit(143)
