"""Runs contenders in turn, each in its own process, and keeps what they measured.

All processes live side by side and wait on their pipes; one at a time measures. So a slow minute of the machine
meets every contender alike, none shares memory, threads or caches with another, and none is timed while it starts.
"""

import gc
import multiprocessing
import os
import pickle
import signal
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

from busfast.bench.memory import WorkerMemory, give_back_memory, peak_memory, reset_peak, resident_memory
from busfast.errors import UserError
from busfast.imports import is_installed
from busfast.processes import end_children
from busfast.progress import progress

TIMEOUT = 900  # seconds without an answer until a contender counts as hung
GRACE = 20  # seconds for a contender to end by itself
MAX_REASON = 300  # characters of an error that are shown


class Ready(NamedTuple):
    """A contender that is ready to be measured."""

    measure: Callable[[], float]  # measures once; returns the figure, such as img/s
    facts: dict[str, Any]  # values for columns and checks


@dataclass(frozen=True)
class Contender:
    """One way to do the job."""

    name: str  # names its row
    make: Callable[..., Ready]  # a function of a module: its process imports it by name
    settings: dict[str, Any]  # keyword arguments of `make`
    packages: dict[str, str] = field(default_factory=dict)  # optional; import name -> pip name
    environment: dict[str, str] = field(default_factory=dict)  # variables of its process, besides those of the bench


@dataclass
class Outcome:
    """What a contender measured; memory in bytes."""

    name: str
    values: list[float] = field(default_factory=list)  # one per round; none if it was skipped
    facts: dict[str, Any] = field(default_factory=dict)  # its `Ready.facts`
    peak: int = 0  # resident memory while measuring, with the private memory of its workers
    own: int = 0  # anonymous resident memory after the last round
    mapped: int = 0  # pages of mapped files after the last round
    reason: str = ""  # why it was skipped, or ""


class _Failed(Exception):
    pass


def compete(contenders: Sequence[Contender], rounds: int, *, at_once: int = 2) -> list[Outcome]:
    """Measures contenders (of different names), interleaved, after a warm-up round; each round begins with another.
    One that is absent or fails is reported and skipped. `at_once`: how many may get ready at the same time."""
    outcomes = {contender.name: Outcome(contender.name) for contender in contenders}
    with tempfile.TemporaryDirectory(prefix="busfast-arena-") as folder:
        workers: dict[str, _Worker] = {}

        def skip(name: str, reason: str) -> None:
            outcomes[name] = Outcome(name, reason=reason)
            print(f"  {name}: skipped: {reason}")
            if name in workers:
                workers.pop(name).end()

        try:
            present = []
            for contender in contenders:
                absent = [pip for module, pip in contender.packages.items() if not is_installed(module)]
                if absent:
                    skip(contender.name, f"not installed: pip install {' '.join(absent)}")
                else:
                    present.append(contender)
            groups = [present[start:start + at_once] for start in range(0, len(present), at_once)]
            for group in progress(groups, "getting ready"):
                for contender in group:
                    workers[contender.name] = _Worker(contender, Path(folder) / f"{len(workers)}.log")
                for contender in group:
                    try:
                        outcomes[contender.name].facts = workers[contender.name].answer()
                    except _Failed as failure:
                        skip(contender.name, str(failure))
            turns = [(number, name) for number in range(rounds + 1) for name in _rotate(list(workers), number)]
            for number, name in progress(turns, "measuring"):
                if name not in workers:
                    continue
                try:
                    value, memory = workers[name].measure(warm_up=number == 0)
                except _Failed as failure:
                    skip(name, str(failure))
                    continue
                outcome = outcomes[name]
                outcome.peak, outcome.own, outcome.mapped = max(outcome.peak, memory[0]), *memory[1:]
                if number:
                    outcome.values.append(value)
        finally:
            for worker in workers.values():
                worker.pipe.close()  # all of them first, so that they end side by side
            for worker in workers.values():
                worker.end()
    return list(outcomes.values())


def pick(contenders: Sequence[Contender], words: Sequence[str]) -> list[Contender]:
    """Returns the contenders whose name contains one of the words; all if there are none. UserError if none matches."""
    picked = [one for one in contenders if not words or any(word in one.name for word in words)]
    if not picked:
        raise UserError(f"No contender matches --only={','.join(words)}. The names are: "
                        f"{'; '.join(one.name for one in contenders)}.")
    return picked


def _rotate(names: list[str], by: int) -> list[str]:
    by %= max(1, len(names))
    return names[by:] + names[:by]


class _Worker:
    """The process of a contender, seen from the bench."""

    def __init__(self, contender: Contender, log: Path):
        context = multiprocessing.get_context("spawn")  # a fork would copy threads' locks in whatever state they are
        self.log = log
        self.pipe, child_pipe = context.Pipe()
        # Pickled here: unpickling imports the contender's libraries, whose output belongs in the log.
        self.process = context.Process(target=_work, args=(pickle.dumps(contender), child_pipe, str(log)))
        before = dict(os.environ)
        os.environ.update(contender.environment)  # a new process takes them from here, before it imports anything
        try:
            self.process.start()
        finally:
            os.environ.clear()
            os.environ.update(before)
        child_pipe.close()

    def measure(self, warm_up: bool) -> tuple[float, tuple[int, int, int]]:
        try:
            self.pipe.send("warm up" if warm_up else "go")
        except OSError:  # it has ended; `answer` raises
            pass
        return self.answer()

    def answer(self):
        """Returns what the process sends; raises _Failed if it failed, ended, or did not answer in time."""
        if not wait([self.pipe, self.process.sentinel], TIMEOUT):
            raise _Failed(f"no answer in {TIMEOUT} seconds")
        try:
            kind, content = self.pipe.recv() if self.pipe.poll() else ("ended", None)
        except (EOFError, OSError):
            kind = "ended"
        if kind == "ended":
            self.process.join(GRACE)
            lines = self.log.read_text(errors="replace").strip().splitlines() if self.log.is_file() else []
            raise _Failed(f"its process ended ({self.process.exitcode})" + (f": {lines[-1]}" if lines else ""))
        if kind == "failed":
            raise _Failed(content)
        return content

    def end(self) -> None:
        self.pipe.close()  # the process reads the end of its pipe, and returns
        self.process.join(GRACE)
        end_children([self.process], GRACE)
        self.process.join()
        self.process.close()


def _work(pickled: bytes, pipe: Connection, log: str) -> None:
    """What runs in a contender's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the bench ends its contenders
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)  # output of libraries would tear the bench's own lines
        os.dup2(file.fileno(), 2)
    try:
        contender: Contender = pickle.loads(pickled)
        ready = contender.make(**contender.settings)
        answer: Any = ready.facts
        workers = 0
        while order := _exchange(pipe, ("done", answer)):
            if order == "warm up":
                reset_peak()
                with WorkerMemory() as memory:
                    value = ready.measure()
                workers = memory.peak
            else:
                value = ready.measure()
            peak = peak_memory() + workers
            gc.collect()
            answer = value, (peak, *resident_memory())
            give_back_memory()
    except Exception as error:
        traceback.print_exc()
        message = " ".join(str(error).split()) or "without a message"
        _exchange(pipe, ("failed", f"{type(error).__name__}: {message[:MAX_REASON]}"))


def _exchange(pipe: Connection, message: tuple[str, Any]) -> str | None:
    """Sends a message; returns the next order, None when the bench has ended."""
    try:
        pipe.send(message)
        return pipe.recv()
    except (EOFError, OSError):
        return None
