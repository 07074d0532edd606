"""Batches are read in threads: in order, a few ahead and no more."""

import pytest

from busfast.pipelines.prefetch import AHEAD, read_batches


def test_batches_come_in_order_and_only_a_few_are_read_ahead():
    asked = []

    def sources():
        for number in range(8):
            asked.append(number)
            yield [number, 10 * number]

    reading = read_batches(lambda number: -number, sources(), 3)
    assert asked == []
    assert next(reading) == [0, 0] and asked == list(range(AHEAD + 1))
    assert list(reading) == [[-number, -10 * number] for number in range(1, 8)]


def test_what_goes_wrong_in_a_thread_reaches_whoever_takes_the_batch():
    reading = read_batches(lambda number: 1 / number, [[1], [0], [2]], 2)
    assert next(reading) == [1.0]
    with pytest.raises(ZeroDivisionError):
        next(reading)


def test_reading_ends_with_whoever_leaves_early():
    reading = read_batches(str, ([number] for number in range(1000)), 2)
    assert next(reading) == ["0"]
    reading.close()
    assert list(reading) == []
