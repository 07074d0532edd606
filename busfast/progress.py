"""Progress of long jobs (a bar on a terminal, otherwise a line now and then), and bounded work in threads."""

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, cast

from tqdm import tqdm

EVERY = 20  # seconds between lines

T = TypeVar("T")


def progress(items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """Yields `items`, and shows on stderr how many are done.

    Args:
        items, total: what to work through, and its length; default: `len(items)`.
        label: names the work, such as "fingerprinting images".
    """
    total = len(cast(Sized, items)) if total is None else total
    if sys.stderr.isatty():
        yield from tqdm(items, desc=label, total=total, leave=False)
        return
    last = time.monotonic()
    for done, item in enumerate(items):
        if time.monotonic() - last >= EVERY:
            last = time.monotonic()
            print(f"{label}: {done} of {total}", file=sys.stderr)
        yield item


def map_ahead(pool: ThreadPoolExecutor, function: Callable, items: Iterable, limit: int) -> Iterator:
    """Yields `function(item)` in order, like `pool.map`, but with at most `limit` results pending or unread."""
    running: deque = deque()
    try:
        for item in items:
            running.append(pool.submit(function, item))
            if len(running) >= limit:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        for future in running:
            future.cancel()


def duration(seconds: float) -> str:
    """Returns a time in at most six characters: "45 s", "12 min", "2.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.{int(seconds < 360000)}f} h"


def bold(text: str) -> str:
    """Returns a line for stdout in bold, where that is a terminal that can and NO_COLOR is not set."""
    able = sys.stdout.isatty() and os.name == "posix" and os.environ.get("TERM", "dumb") != "dumb"
    return f"\033[1m{text}\033[0m" if able and "NO_COLOR" not in os.environ else text
