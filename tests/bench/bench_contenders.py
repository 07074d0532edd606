"""Contenders for the tests of the arena: found by name in processes that import nothing heavy."""

import os

import numpy as np

from busfast.bench.arena import Ready


def steady(values):
    values = iter(values)
    return Ready(lambda: next(values), {"process": os.getpid(), "variable": os.environ.get("BUSFAST_TEST")})


def broken():
    raise ValueError("no such thing here")


def dies():
    os._exit(3)


def fails_later():
    return Ready(lambda: 1 / 0, {})


def notes_its_turn(name, file):
    def turn():
        with open(file, "a") as log:
            log.write(name)
        return 1.0

    return Ready(turn, {})


def holds(megabytes):
    kept = np.ones(megabytes * 1_000_000, np.uint8)
    return Ready(lambda: float(kept[:1000].sum()), {})
