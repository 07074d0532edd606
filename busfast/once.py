"""What is the same for each of several trainings is printed once."""

from collections.abc import Iterator
from contextlib import contextmanager

_said: list[set[str]] = []


@contextmanager
def saying_once() -> Iterator[None]:
    """Within it, `say` prints no line a second time."""
    _said.append(set())
    try:
        yield
    finally:
        _said.pop()


def say(line: str) -> None:
    """Prints a line, unless it was printed before within `saying_once`."""
    if _said and line in _said[-1]:
        return
    if _said:
        _said[-1].add(line)
    print(line)
