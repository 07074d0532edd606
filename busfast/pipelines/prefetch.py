"""Reads batches in threads, a few batches ahead of whoever takes them; an image that cannot be read is named."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from busfast.data.images import why_unreadable
from busfast.errors import UserError

AHEAD = 2  # batches being read while one is worked on


def read_batches(read: Callable, sources: Iterable[list], threads: int) -> Iterator[list]:
    """Yields `[read(source) for source in batch]` of each batch, in order.

    Args:
        read: is called in threads.
        sources: batches of whatever `read` takes.
        threads: how many.
    """
    waiting: deque = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for batch in sources:
                waiting.append([pool.submit(read, source) for source in batch])
                if len(waiting) > AHEAD:
                    yield [future.result() for future in waiting.popleft()]
            while waiting:
                yield [future.result() for future in waiting.popleft()]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def name_unreadable(read: Callable) -> Callable:
    """Makes a function that reads one image say which one it was that could not be read."""
    def named(source):
        try:
            return read(source)
        except (UserError, MemoryError):
            raise
        except Exception as error:  # a broken file raises nearly anything
            raise unreadable(source, error) from error
    return named


def unreadable(source: Any, error: Exception) -> Exception:
    """Returns the error to raise for an image that cannot be read: for a file a `UserError`, else what it was."""
    if not isinstance(source, str | os.PathLike):
        return error
    return UserError(f"The image {os.fspath(source)} cannot be read: {why_unreadable(error)}. Bring it back as it was.")
