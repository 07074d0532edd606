"""Runs side by side: each in a process of its own, with its share of the cores, or with a GPU of its own."""

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import torch

from busfast import processes
from busfast.errors import UserError
from busfast.pipelines.settings import convert

MOST = 64
PATIENCE = 60  # seconds that a run has to end by itself after it was asked to


def check_jobs(jobs: int | str, device: torch.device) -> int:
    """Returns the number of jobs, if the machine has room for it.

    Raises:
        UserError: no number, or out of range; more jobs than GPUs; already one of several processes.
    """
    jobs = convert("jobs", jobs, int)
    if not 1 <= jobs <= MOST:
        raise UserError(f"jobs={jobs} is out of range: give a number from 1 to {MOST}.")
    if jobs > 1 and processes.world_size() > 1:
        raise UserError(f"jobs={jobs} would start further processes in each of the {processes.world_size()} that were "
                        "started. Leave out --jobs, or start it without torchrun or accelerate.")
    if device.type == "cuda" and jobs > torch.cuda.device_count():
        raise UserError(f"jobs={jobs} is more than there are GPUs here ({torch.cuda.device_count()}), and each run "
                        "takes one. Give fewer, or --device=cpu.")
    return jobs


def run_jobs(commands: dict[str, Sequence[str]], jobs: int, device: torch.device) -> list[str]:
    """Runs command lines of busfast, `jobs` of them at a time; each line that one prints is shown with its name.

    Each has its share of the cores (unless OMP_NUM_THREADS says otherwise) or, on CUDA, a GPU of its own. One that
    fails leaves the others alone. Ctrl-C and SIGTERM end them all; each keeps what it has, to go on with --resume.

    Args:
        commands: name -> the words after `python -m busfast`.
        jobs: as `check_jobs` returns it.
        device: what the runs are trained on.

    Returns:
        The names of those that failed.
    """
    share = processes.share_cores(jobs)
    each = "a GPU" if device.type == "cuda" else f"{share} of {processes.cores()} cores"
    print(f"jobs: {len(commands)} runs, {jobs} at a time, {each} each", flush=True)
    places = queue.SimpleQueue()
    for number in range(jobs):
        places.put(str(number))
    running, ending = {}, threading.Event()

    def work(name: str) -> int:
        place = places.get()
        env = os.environ | {"PYTHONUNBUFFERED": "1"}
        env.setdefault("OMP_NUM_THREADS", str(share))
        if device.type == "cuda":
            env["CUDA_VISIBLE_DEVICES"] = _visible(int(place))
        try:
            if ending.is_set():
                return 130
            # A session of its own: Ctrl-C in the terminal comes to this process alone, which ends them, once.
            with subprocess.Popen([sys.executable, "-m", "busfast", *commands[name]], env=env, start_new_session=True,
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                  encoding="utf-8", errors="replace") as process:
                running[name] = process
                if ending.is_set():  # it came between the two
                    process.terminate()
                for line in process.stdout:
                    print(f"[{name}] {line}", end="", flush=True)
            return process.returncode
        finally:
            running.pop(name, None)
            places.put(place)

    with ThreadPoolExecutor(jobs) as pool:
        futures = {name: pool.submit(work, name) for name in commands}
        try:
            return [name for name, future in futures.items() if future.result() != 0]
        except BaseException:
            ending.set()
            pool.shutdown(wait=False, cancel_futures=True)
            _end(list(running.values()))
            raise


def _visible(number: int) -> str:
    """Which GPU is the number-th of those that this process may use."""
    own = os.environ.get("CUDA_VISIBLE_DEVICES")
    return own.split(",")[number].strip() if own else str(number)


def _end(processes: list[subprocess.Popen]) -> None:
    """Asks processes to end, and lets them write what they have; ends those that do not."""
    for process in processes:
        with suppress(OSError):
            process.terminate()
    try:
        for process in processes:
            process.wait(PATIENCE)
    finally:  # also when Ctrl-C came again
        for process in processes:
            if process.poll() is None:
                process.kill()
