"""Rank and world size of this process under torchrun or accelerate launch; cores; child processes."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

KEYS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")

_launcher: dict[str, str] = {}


def capture_launcher() -> None:
    """Moves the launcher's variables out of the environment, if it started several processes.

    fastai and Accelerate read them, and would wait for the other ranks even in what one rank does by itself.
    """
    if "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        _launcher.update({key: os.environ.pop(key) for key in KEYS if key in os.environ})


@contextmanager
def launcher_environment() -> Iterator[None]:
    """Restores the launcher's variables for as long as a library needs them."""
    os.environ.update(_launcher)
    try:
        yield
    finally:
        for key in _launcher:
            del os.environ[key]


def rank() -> int:
    """Returns the rank of this process over all machines; rank 0 writes, prints and decides."""
    return int(_launcher.get("RANK", 0))


def world_size() -> int:
    """Returns the number of processes over all machines."""
    return int(_launcher.get("WORLD_SIZE", 1))


def local_rank() -> int:
    """Returns the rank of this process on its machine: the number of its GPU."""
    return int(_launcher.get("LOCAL_RANK", 0))


def local_world_size() -> int:
    """Returns the number of processes on this machine."""
    return int(_launcher.get("LOCAL_WORLD_SIZE", 1))


def cores() -> int:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores_per_process(count: int) -> int:
    """Returns how many cores each of `count` processes gets, at least one."""
    return max(1, cores() // count)


def rank_slice(length: int, rank: int, world_size: int) -> slice:
    """Returns the slice of a batch of `length` images that a rank takes; slices differ in length by one at most."""
    return slice(length * rank // world_size, length * (rank + 1) // world_size)


def launch_command(command: str) -> str:
    """Returns a command, python -m busfast ..., with the launcher that starts as many processes as run now."""
    if world_size() == 1:
        return command
    machines = world_size() // local_world_size()
    nodes = f"--nnodes={machines} ... " if machines > 1 else ""
    # Without "--", torchrun takes --monitor for its own --monitor-interval.
    module = "-m --" if "--monitor" in command else "-m"
    return command.replace("python -m", f"torchrun --nproc_per_node={local_world_size()} {nodes}{module}", 1)


def end_children(children: Sequence[Any], seconds: float) -> None:
    """Terminates child processes, which may still write their files; kills those that take too long.

    Args:
        children: `subprocess.Popen` or `multiprocessing.Process`.
        seconds: how long to wait for each.
    """
    for child in children:
        with suppress(OSError):
            child.terminate()
    try:
        for child in children:
            with suppress(subprocess.TimeoutExpired):
                (child.wait if isinstance(child, subprocess.Popen) else child.join)(seconds)
    finally:  # also on a second Ctrl-C
        for child in children:
            if child.poll() is None if isinstance(child, subprocess.Popen) else child.is_alive():
                child.kill()
