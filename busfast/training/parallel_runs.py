"""Runs side by side: each in a process of its own, with its share of the cores, or with a GPU of its own."""

import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from busfast import processes
from busfast.errors import UserError, check_range
from busfast.pipelines.settings import convert
from busfast.progress import duration
from busfast.text import CAUTION, NEW_IMAGES

if TYPE_CHECKING:
    import torch

MOST = 64
# What the command that started all says itself, and how each run's lines begin that are mostly those of the others.
SAID = ("Next: ", f"  {NEW_IMAGES}: ", "  to continue: ", CAUTION)
SAID_WITH_DETAILS = ("settings: ", "data: ", "split: ")
COMMON = ("device: ", "loader: ", "model: ", "recipe: ", "weights: ", "cache: ")
PATIENCE = 60  # seconds that a terminated run may take to write its files


def check_jobs(jobs: int | str, device: "torch.device | None" = None) -> int:
    """Returns the number of jobs; UserError if this machine has no room for them, or this process is one of several.
    `device`: None: not chosen yet, which needs torch."""
    jobs = convert("jobs", jobs, int)
    check_range("jobs", jobs, 1, MOST)
    if jobs > 1 and processes.world_size() > 1:
        raise UserError(f"jobs={jobs} would start more processes in each of the {processes.world_size()} that "
                        "torchrun or accelerate started. Leave out --jobs, or start it without them.")
    if device is not None and device.type == "cuda":
        from torch.cuda import device_count

        if jobs > device_count():
            raise UserError(f"jobs={jobs} is more than there are GPUs here ({device_count()}); each run needs its own. "
                            "Give fewer, or --device=cpu.")
    return jobs


def run_jobs(commands: dict[str, Sequence[str]], jobs: int, device: "torch.device") -> list[str]:
    """Runs busfast command lines (name of the run -> arguments), `jobs` at a time; returns the names of failed ones.

    Each gets its share of the cores (unless OMP_NUM_THREADS is set) or, on CUDA, its own GPU. If one fails, the others
    continue. Ctrl-C and SIGTERM end them all; --resume continues them.
    """
    threads = processes.cores_per_process(jobs)
    each = "a GPU" if device.type == "cuda" else f"{threads} of {processes.cores()} cores"
    print(f"jobs: {len(commands)} runs, {jobs} at a time, {each} each")
    slots = queue.SimpleQueue()
    for slot in range(jobs):
        slots.put(slot)
    running, ending = {}, threading.Event()
    common: set[str] = set()
    began: dict[str, float] = {}  # of the runs in progress
    took: list[float] = []

    def tell(name: str, lines: Iterable[str]) -> None:
        skip = False
        for line in lines:
            if not line.startswith("  "):
                skip = line.startswith(SAID_WITH_DETAILS)
            if skip or not line.strip() or line.startswith(SAID) or line in common:
                continue
            if shared := line.startswith(COMMON):
                common.add(line)
            print(line if shared else f"[{name}] {line}", end="")

    def work(name: str) -> int:
        slot = slots.get()
        env = os.environ | {"PYTHONUNBUFFERED": "1"}
        env.setdefault("OMP_NUM_THREADS", str(threads))
        if device.type == "cuda":
            env["CUDA_VISIBLE_DEVICES"] = _visible(slot)
        try:
            if ending.is_set():
                return 130
            # In its own session, so that Ctrl-C in the terminal reaches only this process, which ends each run once.
            with subprocess.Popen([sys.executable, "-m", "busfast", *commands[name]], env=env, start_new_session=True,
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                  encoding="utf-8", errors="replace") as process:
                running[name], began[name] = process, time.monotonic()
                if ending.is_set():  # since the check above
                    process.terminate()
                tell(name, process.stdout or ())
            took.append(time.monotonic() - began.pop(name))
            if len(took) < len(commands) and not ending.is_set():
                now = time.monotonic()
                left = time_left(took, [now - start for start in [*began.values()]], len(commands), jobs)
                print(f"jobs: {len(took)} of {len(commands)} runs have ended, about {duration(left)} left")
            return process.returncode
        finally:
            running.pop(name, None)
            slots.put(slot)

    with ThreadPoolExecutor(jobs) as pool:
        futures = {name: pool.submit(work, name) for name in commands}
        try:
            return [name for name, future in futures.items() if future.result() != 0]
        except BaseException:
            ending.set()
            pool.shutdown(wait=False, cancel_futures=True)
            processes.end_children(list(running.values()), PATIENCE)
            raise


def time_left(took: Sequence[float], ages: Sequence[float], count: int, jobs: int) -> float:
    """Returns in how many seconds `count` runs will have ended, `jobs` at a time: those in progress, which have run for
    `ages`, and those that have not begun are expected to take as long as those that `took` so many seconds."""
    mean, left = sum(took) / len(took), count - len(took)
    return (mean * (left - len(ages)) + sum(max(0.0, mean - age) for age in ages)) / min(jobs, left)


def _visible(slot: int) -> str:
    """The CUDA device of a slot, among those that this process may use."""
    devices = os.environ.get("CUDA_VISIBLE_DEVICES")
    return devices.split(",")[slot].strip() if devices else str(slot)
