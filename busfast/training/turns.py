"""The trainings that one command asks for: which of them are done, the others in turn, and how to go on with all."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import NamedTuple

from busfast.data.split import Split
from busfast.errors import Interrupted
from busfast.once import saying_once
from busfast.pipelines.config import Config
from busfast.text import listed
from busfast.training.checkpoint import remove_checkpoints
from busfast.training.job import TrainOptions, Turn
from busfast.training.resume import find_finished, other_images
from busfast.training.runs import LOCK, Run
from busfast.training.train import full_config, train_run


class Training(NamedTuple):
    """A run to be trained: the second part of its name, its checked configuration, its split."""

    name: str
    config: Config
    split: Split


@contextmanager
def say_how_to_go_on(command: str) -> Iterator[None]:
    """Prints the command that continues everything, wherever it is interrupted."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as stop:
        print(f"\n  to continue: {command}")
        if isinstance(stop, KeyboardInterrupt):
            raise Interrupted from stop
        raise


def find_done(pipeline: str, trainings: Sequence[Training], options: TrainOptions) -> dict[str, Run]:
    """Returns the latest run of each training that is finished: the training's name -> its run."""
    found = {one.name: find_finished(pipeline, one.name, full_config(one.config, one.split), one.split, options)
             for one in trainings}
    return {name: run for name, run in found.items() if run is not None}


def pass_over(done: dict[str, Run], trainings: Sequence[Training]) -> None:
    """Says once which runs are finished, and which of them keep other images than those of now."""
    names: dict[str, list[str]] = {}
    for training in trainings:
        if run := done.get(training.name):
            with suppress(OSError):
                remove_checkpoints(run.models)  # unless it was killed before it did so itself
                (run.models / LOCK).unlink(missing_ok=True)
            warning = other_images(run, run.read_config()[1], training.split)
            names.setdefault(warning.replace(str(run.results), "results/RUN"), []).append(run.name)
    for warning, runs in names.items():
        print(f"resume: {listed(runs)} {'is' if len(runs) == 1 else 'are'} finished; nothing is left to do{warning}")


def train_in_turn(pipeline: str, trainings: Sequence[Training], options: TrainOptions, done: dict[str, Run],
                  follow: Callable[[Run], None] | None = None, more: bool = False) -> list[Run]:
    """Trains one after the other; what they have in common is printed once.

    Args:
        pipeline: first part of the runs' names.
        trainings: in this order.
        options: of each; see `train_run`.
        done: what is not to be trained again, as `find_done` returns it.
        follow: what to do with each run as soon as it is trained; its time is counted as soon as it is known.
        more: something of unknown length follows the last one.

    Returns:
        The runs, in the order of `trainings`.

    Raises:
        UserError: as `train_run`.
    """
    left = [training.name for training in trainings if training.name not in done]
    runs, took = [], []
    with saying_once():
        for number, training in enumerate(trainings, 1):
            if training.name in done:
                run = done[training.name]
            else:
                if len(trainings) > 1:
                    print(f"\ntraining {number} of {len(trainings)} ({_describe(training, trainings)})")
                left.remove(training.name)
                until = _until(len(trainings), follow is not None and bool(took), follow is not None or more)
                turn = Turn(len(left), sum(took) / len(took) * (len(left) + 1) if took else 0.0, until)
                run = train_run(pipeline, training.config, training.name, training.split, replace(options, turn=turn))
            runs.append(run)
            if follow is not None:
                began = time.monotonic()
                follow(run)
                took.append(time.monotonic() - began)
    return runs


def _until(count: int, counted: bool, follows: bool) -> str:
    """Says what the time left counts, where that is not one training and nothing else."""
    if count == 1 and not follows:
        return ""
    trainings = f"all {count} trainings" if count > 1 else "the training"
    return f"to the end of {trainings}" + (" and of --then" if counted else ", not counting --then" if follows else "")


def _describe(training: Training, trainings: Sequence[Training]) -> str:
    """Says which one of several trainings this is, such as "fold 1, seed 42"."""
    split, seed = training.split, training.config.seed
    kind = "center" if split.name == "leave_one_center_out" else "fold"
    return ", ".join([*([split.name] if len({one.split.name for one in trainings}) > 1 else []),
                      *([f"{kind} {split.fold}"] if split.fold else []),
                      *([f"seed {seed}"] if len({one.config.seed for one in trainings}) > 1 else [])])
