"""How far a long job is: a bar on a terminal, a plain line now and then where there is none."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

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
    total = len(things) if total is None else total
    if sys.stderr.isatty():
        yield from tqdm(things, desc=what, total=total, leave=False)
        return
    last = time.monotonic()
    for done, thing in enumerate(things):
        if time.monotonic() - last >= EVERY:
            last = time.monotonic()
            print(f"{what}: {done} of {total}", file=sys.stderr, flush=True)
        yield thing
