"""Runs contenders in turn, each in a process of its own, and keeps what they measured.

All of them live side by side and wait on their pipes; one at a time is told to go. So a slow minute of the machine
meets every contender alike, no contender finds the memory, threads or caches of another, and none pays for starting.
"""

import gc
import importlib.util
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

from busfast.bench.memory import Watch, give_back_memory, peak_memory, reset_peak, resident_memory
from busfast.errors import UserError
from busfast.progress import progress

PATIENCE = 900  # seconds without an answer until a contender counts as hung
GRACE = 20  # seconds to end by itself when told so
WORDS = 300  # letters of an error that are shown


class Ready(NamedTuple):
    """A contender that has everything at hand.

    Attributes:
        turn: measures once; returns the figure, such as img/s.
        facts: anything worth a column or a check, plain values.
    """

    turn: Callable[[], float]
    facts: dict[str, Any]


@dataclass(frozen=True)
class Contender:
    """One way to do the job.

    Attributes:
        name: names its row.
        make: a function of a module (it is found by its name in the new process); returns a `Ready`.
        settings: its keyword arguments.
        needs: libraries that may be absent, as Python imports them -> as pip installs them.
    """

    name: str
    make: Callable[..., Ready]
    settings: dict[str, Any]
    needs: dict[str, str] = field(default_factory=dict)


@dataclass
class Outcome:
    """What a contender measured.

    Attributes:
        name: of the contender.
        values: one a round; none if it was left out.
        facts: its `Ready.facts`.
        peak: the most memory it was resident in while measuring, with what its workers hold for themselves, bytes.
        own, mapped: what it held after the last round, bytes: its own, and pages of mapped files.
        reason: why it was left out, or "".
    """

    name: str
    values: list[float] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    peak: int = 0
    own: int = 0
    mapped: int = 0
    reason: str = ""


class _Failed(Exception):
    pass


def compete(contenders: Sequence[Contender], rounds: int, *, at_once: int = 2) -> list[Outcome]:
    """Measures all contenders, interleaved; one round before the others is not counted.

    Args:
        contenders: each with a name of its own.
        rounds: counted rounds; each begins with another contender.
        at_once: how many may get ready at the same time.

    Returns:
        The outcomes, in order. Whoever is absent or fails is said so and left out; the others go on.
    """
    outcomes = {one.name: Outcome(one.name) for one in contenders}
    with tempfile.TemporaryDirectory(prefix="busfast-arena-") as folder:
        corners: dict[str, _Corner] = {}

        def leave_out(name: str, reason: str) -> None:
            outcomes[name] = Outcome(name, reason=reason)
            print(f"  {name}: left out: {reason}", flush=True)
            if name in corners:
                corners.pop(name).end()

        try:
            present = []
            for one in contenders:
                absent = [pip for module, pip in one.needs.items() if _is_absent(module)]
                if absent:
                    leave_out(one.name, f"not installed: pip install {' '.join(absent)}")
                else:
                    present.append(one)
            groups = [present[start:start + at_once] for start in range(0, len(present), at_once)]
            for group in progress(groups, "getting ready"):
                for one in group:
                    corners[one.name] = _Corner(one, Path(folder) / f"{len(corners)}.log")
                for one in group:
                    try:
                        outcomes[one.name].facts = corners[one.name].answer()
                    except _Failed as failure:
                        leave_out(one.name, str(failure))
            turns = [(number, name) for number in range(rounds + 1) for name in _rotated(list(corners), number)]
            for number, name in progress(turns, "measuring"):
                if name not in corners:
                    continue
                try:
                    value, memory = corners[name].turn(warm_up=number == 0)
                except _Failed as failure:
                    leave_out(name, str(failure))
                    continue
                outcome = outcomes[name]
                outcome.peak, outcome.own, outcome.mapped = max(outcome.peak, memory[0]), *memory[1:]
                if number:
                    outcome.values.append(value)
        finally:
            for corner in corners.values():
                corner.pipe.close()  # all of them first, so that they end side by side
            for corner in corners.values():
                corner.end()
    return list(outcomes.values())


def pick(contenders: Sequence[Contender], words: Sequence[str]) -> list[Contender]:
    """Returns the contenders whose name holds one of the words; all of them if there is none.

    Raises:
        UserError: no name holds any.
    """
    picked = [one for one in contenders if not words or any(word in one.name for word in words)]
    if not picked:
        raise UserError(f"--only={','.join(words)} is part of no name. The names are: "
                        f"{'; '.join(one.name for one in contenders)}.")
    return picked


def _is_absent(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is None
    except ModuleNotFoundError:  # what it is in is not there
        return True


def _rotated(names: list[str], by: int) -> list[str]:
    by %= max(1, len(names))
    return names[by:] + names[:by]


class _Corner:
    """The process of a contender, as the others see it."""

    def __init__(self, contender: Contender, log: Path):
        context = multiprocessing.get_context("spawn")  # a fork would copy threads' locks in whatever state they are
        self.log = log
        self.pipe, theirs = context.Pipe()
        # Pickled here: unpickling imports the contender's libraries, which shall chatter into the log.
        self.process = context.Process(target=_work, args=(pickle.dumps(contender), theirs, str(log)))
        self.process.start()
        theirs.close()

    def turn(self, warm_up: bool) -> tuple[float, tuple[int, int, int]]:
        try:
            self.pipe.send("warm up" if warm_up else "go")
        except OSError:  # it has ended: `answer` says how
            pass
        return self.answer()

    def answer(self):
        """Returns what the process sends.

        Raises:
            _Failed: it sends why it failed, ends, or is silent for too long.
        """
        if not wait([self.pipe, self.process.sentinel], PATIENCE):
            raise _Failed(f"no answer in {PATIENCE} seconds")
        try:
            kind, what = self.pipe.recv() if self.pipe.poll() else ("ended", None)
        except (EOFError, OSError):
            kind = "ended"
        if kind == "ended":
            self.process.join(GRACE)
            said = self.log.read_text(errors="replace").strip().splitlines() if self.log.is_file() else []
            raise _Failed(f"its process ended ({self.process.exitcode})" + (f": {said[-1]}" if said else ""))
        if kind == "failed":
            raise _Failed(what)
        return what

    def end(self) -> None:
        self.pipe.close()  # it reads the end of its pipe, and stops
        self.process.join(GRACE)
        for stop in (self.process.terminate, self.process.kill):
            if self.process.is_alive():
                stop()
                self.process.join(GRACE)
        self.process.close()


def _work(pickled: bytes, pipe: Connection, log: str) -> None:
    """What runs in a contender's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the bench ends its contenders
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)  # libraries' chatter would tear up the bench's own lines
        os.dup2(file.fileno(), 2)
    try:
        contender: Contender = pickle.loads(pickled)
        ready = contender.make(**contender.settings)
        answer: Any = ready.facts
        workers = 0
        while order := _exchange(pipe, ("done", answer)):
            if order == "warm up":
                reset_peak()
                with Watch() as watch:
                    value = ready.turn()
                workers = watch.workers
            else:
                value = ready.turn()
            peak = peak_memory() + workers
            gc.collect()
            answer = value, (peak, *resident_memory())
            give_back_memory()
    except Exception as error:
        traceback.print_exc()
        words = " ".join(str(error).split()) or "without words"
        _exchange(pipe, ("failed", f"{type(error).__name__}: {words[:WORDS]}"))


def _exchange(pipe: Connection, message: tuple[str, Any]) -> str | None:
    """Sends a message; returns the next order, None when the bench has ended."""
    try:
        pipe.send(message)
        return pipe.recv()
    except (EOFError, OSError):
        return None
