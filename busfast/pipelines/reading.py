"""Reads batches in threads, a few batches ahead of whoever takes them."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

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
