"""Which of how many processes this is, where torchrun or accelerate started several to train together."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

KEYS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")

_taken: dict[str, str] = {}


def capture_launcher() -> None:
    """Takes what the starter wrote out of the environment, if it started several processes.

    fastai and Accelerate look there, and would wait for the other processes wherever they see several, such as in
    what one process does alone.
    """
    if "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        _taken.update({key: os.environ.pop(key) for key in KEYS if key in os.environ})


@contextmanager
def launcher_environment() -> Iterator[None]:
    """Puts it back for as long as a library needs it."""
    os.environ.update(_taken)
    try:
        yield
    finally:
        for key in _taken:
            del os.environ[key]


def rank() -> int:
    """Returns which process this is, counted from 0, over all machines; 0 writes, says and decides."""
    return int(_taken.get("RANK", 0))


def world_size() -> int:
    """Returns how many processes there are, over all machines."""
    return int(_taken.get("WORLD_SIZE", 1))


def local_rank() -> int:
    """Returns which process of this machine this is, counted from 0: the number of its GPU."""
    return int(_taken.get("LOCAL_RANK", 0))


def local_world_size() -> int:
    """Returns how many processes share this machine."""
    return int(_taken.get("LOCAL_WORLD_SIZE", 1))


def cores() -> int:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_cores(among: int) -> int:
    """Returns how many of the cores each of some processes has."""
    return max(1, cores() // among)


def share(length: int, place: tuple[int, int]) -> slice:
    """Returns the part of so many things that falls to a process; parts differ in length by one at most.

    Args:
        length: how many things there are.
        place: which process, of how many.
    """
    which, of = place
    return slice(length * which // of, length * (which + 1) // of)


def launch_command(command: str) -> str:
    """Returns a command, python -m busfast ..., as it starts as many processes as this one is one of."""
    if world_size() == 1:
        return command
    machines = world_size() // local_world_size()
    starter = f"torchrun --nproc_per_node={local_world_size()} " + (f"--nnodes={machines} ... " if machines > 1 else "")
    # torchrun takes --monitor for its own --monitor-interval, unless it is told that its options are over.
    return command.replace("python -m", starter + ("-m --" if "--monitor" in command else "-m"), 1)


def end_children(children: Sequence[Any], seconds: float) -> None:
    """Asks child processes to end and lets them write what they have; kills those that have not ended by then.

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
