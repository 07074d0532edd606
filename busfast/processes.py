"""Rank and world size of this process under torchrun or accelerate launch; cores; child processes."""

import math
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

KEYS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
CGROUPS, OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
QUOTA_FILES = (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us"))  # cgroup 2, cgroup 1

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
    """Returns how many cores this process may use: those of its affinity, at most its quota, rounded up."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, math.ceil(min(usable, cpu_quota())))


def cpu_quota() -> float:
    """Returns how many cores' time a container, Slurm or systemd grants this process (cgroups); inf: no limit.

    loky's `cpu_count` rounds it up, which hides a quota below one core, and looks at the container's own cgroup only.
    """
    quotas = [math.inf]
    with suppress(OSError):  # not Linux
        for line in OWN_CGROUPS.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            root = CGROUPS / ("cpu" if controllers else "")
            own = root / path.strip("/")  # absent where a container sees its own cgroup as the root
            for folder in {root, own, *(above for above in own.parents if above.is_relative_to(root))}:
                for names in QUOTA_FILES:
                    with suppress(OSError, ValueError):  # no such file, or "max"
                        quota, period = map(int, " ".join((folder / name).read_text() for name in names).split())
                        quotas += [quota / period] if quota > 0 else []  # -1: no limit
    return min(quotas)


def cores_per_process(count: int) -> int:
    """Returns how many cores each of `count` processes gets, at least one."""
    return max(1, cores() // count)


def threads_per_process(count: int = 1) -> int:
    """Returns how many threads each of `count` processes computes with: OMP_NUM_THREADS, or its share of the cores."""
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # OpenMP allows a list, by level
    return int(wanted) if wanted.isdecimal() and int(wanted) else cores_per_process(count)


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
