"""How much memory a process and its workers hold, and giving back what was freed. Linux tells; other systems less."""

import ctypes
import os
import sys
import threading
from pathlib import Path

EVERY = 0.2  # seconds between two looks at the workers

_PROC = Path("/proc")


class Watch:
    """Looks at the workers of this process from time to time, for as long as it is entered.

    Attributes:
        workers: the most that they held for themselves at one time, bytes. What they share with this process (all
            that they have not written to since they were forked) is not counted again.
    """

    def __init__(self):
        self.workers = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(EVERY):
            self.workers = max(self.workers, sum(_own(worker) for worker in _descendants(os.getpid())))


def peak_memory() -> int:
    """Returns the most memory that this process was resident in since it started or since `reset_peak`, bytes."""
    if (peak := _status("VmHWM")) is not None:
        return peak
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def reset_peak() -> None:
    """Starts `peak_memory` anew, so that it leaves out what was needed to get ready. Linux only."""
    try:
        (_PROC / "self/clear_refs").write_text("5")
    except OSError:  # another system, or a kernel that does not let us: the peak is that of the whole process
        pass


def resident_memory() -> tuple[int, int]:
    """Returns what this process holds now, bytes: its own, and pages of files that are mapped into it."""
    return _status("RssAnon") or 0, _status("RssFile") or 0


def give_back_memory() -> None:
    """Returns freed memory to the system, so that contenders that wait leave room for the one that works."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError, TypeError):  # not glibc
        pass


def _status(field: str, process: str = "self") -> int | None:
    try:
        lines = (_PROC / process / "status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)


def _own(process: int) -> int:
    """What a process holds for itself alone, bytes; 0 if it has ended."""
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
    children = [int(word) for text in lists for word in text.split()]
    return children + [one for child in children for one in _descendants(child)]
