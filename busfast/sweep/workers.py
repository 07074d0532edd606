"""Trials side by side, each worker a process with its share of the cores.

The workers report over pipes instead of writing Optuna's journal themselves: with one writer, a worker that the system
kills leaves neither half a line, after which Optuna refuses the journal, nor a lock, for which the others would wait;
and trials are drawn and concluded in one order.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from optuna.trial import Trial

from busfast.data.split import Split
from busfast.pipelines.config import Config
from busfast.processes import end_children, threads_per_process
from busfast.sweep.trial import Outcome, train_trial
from busfast.training.runs import Run

GRACE = 20  # seconds for a worker to end


def run_workers(jobs: int, sweep: Run, split: Split, objective: str,
                begin: Callable[[], tuple[Trial, Config] | None], report: Callable[[Trial, int, float], bool],
                conclude: Callable[[Trial, Outcome], None]) -> None:
    """Keeps `jobs` processes busy with trials until `begin` returns None.
    `report` is called after each epoch, with its number and value, and returns whether to prune the trial."""
    workers: dict[int, tuple[BaseProcess, Connection]] = {}
    idle, busy = list(range(jobs)), {}  # numbers of workers; pipe -> number, trial
    sys.warnoptions.append("ignore:`torch.jit.script` is deprecated")  # on import of fastai, in the workers
    try:
        while True:
            while idle and (drawn := begin()):
                trial, config = drawn
                number = idle.pop()
                if number not in workers:
                    workers[number] = _start(number, jobs, sweep, split, objective)
                pipe = workers[number][1]
                pipe.send((trial.number, config))
                busy[pipe] = number, trial
            if not busy:
                return
            ready: list[Any] = wait(list(busy))
            for pipe in ready:
                number, trial = busy[pipe]
                try:
                    message = pipe.recv()
                except EOFError:
                    process, _ = workers.pop(number)
                    process.join()
                    message = Outcome("failed", reason=_format_exit(process.exitcode))
                if isinstance(message, Outcome):
                    del busy[pipe]
                    idle.append(number)
                    conclude(trial, message)
                else:
                    pipe.send(report(trial, *message))
    finally:
        end_children([process for process, _ in workers.values()], GRACE)


def _start(number: int, *settings: Any) -> tuple[BaseProcess, Connection]:
    context = multiprocessing.get_context("spawn")
    pipe, worker_pipe = context.Pipe()
    process = context.Process(target=_serve, args=(worker_pipe, number, *settings))
    process.start()
    worker_pipe.close()  # so that `pipe` ends with the process
    return process, pipe


def _format_exit(code: int) -> str:
    killed = " (killed by the system: probably out of memory; try fewer --jobs or a smaller bs)" if code == -9 else ""
    return f"its process ended with status {code}{killed}"


def _serve(pipe: Connection, number: int, jobs: int, sweep: Run, split: Split, objective: str) -> None:
    """A worker: trains the trials that it is sent until it is ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the sweep ends its workers
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that temporary files are removed
    threading.Thread(target=_end_with_parent, daemon=True).start()
    share = threads_per_process(jobs)
    if torch.cuda.is_available():
        torch.cuda.set_device(number % torch.cuda.device_count())

    def report(epoch: int, value: float) -> bool:
        pipe.send((epoch, value))
        return pipe.recv()

    while True:
        trial, config = pipe.recv()
        config = replace(config, threads=config.threads or share)
        pipe.send(train_trial(sweep, trial, config, split, objective, report))


def _end_with_parent() -> None:
    """Ends this process if the sweep was killed: nobody would receive the outcome."""
    multiprocessing.parent_process().join()
    os._exit(143)
