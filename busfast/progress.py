"""Long jobs: how far they are (a bar on a terminal, a plain line now and then where there is none), and in threads."""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, cast

from tqdm import tqdm

EVERY = 20  # seconds between lines

T = TypeVar("T")


def progress(things: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Yields `things`, and shows on stderr how many of them are done.

    Args:
        things: what is worked through.
        what: names the work, such as "fingerprinting images".
        total: how many there are; default: the length of `things`.
    """
    total = len(cast(Sized, things)) if total is None else total
    if sys.stderr.isatty():
        yield from tqdm(things, desc=what, total=total, leave=False)
        return
    last = time.monotonic()
    for done, thing in enumerate(things):
        if time.monotonic() - last >= EVERY:
            last = time.monotonic()
            print(f"{what}: {done} of {total}", file=sys.stderr, flush=True)
        yield thing


def ahead(pool: ThreadPoolExecutor, work: Callable, things: Iterable, most: int) -> Iterator:
    """Yields `work(thing)` in order, as `pool.map` does, but with at most `most` results in memory or under way."""
    running: deque = deque()
    try:
        for thing in things:
            running.append(pool.submit(work, thing))
            if len(running) >= most:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        for future in running:
            future.cancel()
