"""The memory of a process and its workers, and returning freed memory. Complete on Linux only."""

import ctypes
import os
import sys
import threading
from pathlib import Path

INTERVAL = 0.2  # seconds between two measurements of the workers

_PROC = Path("/proc")


class WorkerMemory:
    """Measures the memory of this process' workers in the background, while it is entered.
    `peak`: the most private memory that they held at one time, bytes. Pages that they share with this process (not
    written to since the fork) are not counted."""

    def __init__(self):
        self.peak = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._measure, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join()

    def _measure(self) -> None:
        while not self._ended.wait(INTERVAL):
            self.peak = max(self.peak, sum(map(_private, _descendants(os.getpid()))))


def peak_memory() -> int:
    """Returns the peak resident memory of this process since it started or since `reset_peak`, bytes."""
    if (peak := _status("VmHWM")) is not None:
        return peak
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def reset_peak() -> None:
    """Resets `peak_memory`, so that it excludes the start. Linux only."""
    try:
        (_PROC / "self/clear_refs").write_text("5")
    except OSError:  # another system, or a kernel that forbids it: the peak includes the start
        pass


def resident_memory() -> tuple[int, int]:
    """Returns the resident memory of this process, bytes: anonymous, and pages of mapped files."""
    return _status("RssAnon") or 0, _status("RssFile") or 0


def give_back_memory() -> None:
    """Returns freed memory to the system, so that waiting contenders leave room for the one that measures."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError, TypeError):  # not glibc
        pass


def _status(field: str) -> int | None:
    try:
        lines = (_PROC / "self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)


def _private(process: int) -> int:
    """The private memory of a process, bytes; 0 if it has ended."""
    try:
        lines = (_PROC / str(process) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


def _descendants(process: int) -> list[int]:
    try:
        lists = [file.read_text() for file in (_PROC / str(process) / "task").glob("*/children")]
    except OSError:
        return []
    children = [int(number) for text in lists for number in text.split()]
    return children + [process for child in children for process in _descendants(child)]
