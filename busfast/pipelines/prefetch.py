"""Reads batches in threads, a few batches ahead of the consumer; names images that cannot be read."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from busfast.data.images import why_unreadable
from busfast.errors import UserError

AHEAD = 2  # batches that are read while one is used


def read_batches(read: Callable, sources: Iterable[list], threads: int) -> Iterator[list]:
    """Yields `[read(source) for source in batch]` of each batch, in order; calls `read` in threads."""
    pending: deque = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for batch in sources:
                pending.append([pool.submit(read, source) for source in batch])
                if len(pending) > AHEAD:
                    yield [future.result() for future in pending.popleft()]
            while pending:
                yield [future.result() for future in pending.popleft()]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def name_unreadable(read: Callable) -> Callable:
    """Wraps a function that reads an image, so that its errors name the image."""
    def read_named(source):
        try:
            return read(source)
        except (UserError, MemoryError):
            raise
        except Exception as error:  # a damaged file raises nearly anything
            raise unreadable(source, error) from error
    return read_named


class Unreadable(UserError):
    """An image file that cannot be read."""


def unreadable(source: Any, error: Exception) -> Exception:
    """Returns the error to raise for an unreadable image: for a file `Unreadable`, otherwise `error` itself."""
    if not isinstance(source, str | os.PathLike):
        return error
    return Unreadable(f"The image {os.fspath(source)} cannot be read: {why_unreadable(error)}. Restore the file.")
