"""Keeps memory that a training step frees, instead of returning it to the system and requesting it again."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
ARENAS = 2  # of glibc, by default eight per core: each would keep the largest image that its threads ever decoded


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed memory; returns whether it does.

    A step on the CPU frees and allocates the same gigabyte again and again; without this the system clears every page
    each time, which costs more than a third of the step.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library, such as musl
        return False
    return bool(mallopt(_M_ARENA_MAX, ARENAS) and mallopt(_M_MMAP_THRESHOLD, 1 << 30)
                and mallopt(_M_TRIM_THRESHOLD, -1))  # -1: never
