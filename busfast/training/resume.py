"""Which run a training begins or goes on with: found, checked against what is asked for now, and locked."""

import dataclasses
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from busfast.data.split import Split
from busfast.data.split_file import check_unchanged, read_split
from busfast.errors import UserError
from busfast.files import file_lock, remove_leftovers
from busfast.pipelines.config import Config
from busfast.training.checkpoint import NAME, has_checkpoint, read_last, remove_checkpoints
from busfast.training.runs import DONE, MODELS, RESULTS, Run, new_run, train_command
from busfast.yamlfile import read_yaml

# Keys that may differ: where and how fast a run is made, and what another split is made with.
FREE = ("threads", "cache", "device", "splits", "source", "folds")
# Of the record: what the last bit depends on.
BITS = ("versions", "platform", "device", "loader", "cached_images", "processes")


@dataclass(frozen=True)
class Job:
    """A run to be trained."""

    run: Run
    config: Config  # of a run that is continued, its own; so is the split
    split: Split
    fresh: bool = False  # its folders were made just now
    finished: bool = False  # there is nothing left to do
    record: dict[str, Any] | None = None  # of a run that goes on, what it was begun with (`run:` in config.yaml)
    state: dict[str, Any] | None = None  # its last checkpoint; None: it begins at the first epoch


@contextmanager
def open_run(pipeline: str, name: str, config: Config, split: Split, resume: bool,
             free: tuple[str, ...] = ()) -> Iterator[Job]:
    """Finds or makes the run to train, and keeps other processes from it until the end. Keys of the configuration that
    are in `free` may differ from the run's. UserError if it cannot be made or, with `resume`, cannot go on.
    """
    run = latest_run(pipeline, name, split) if resume else None
    if resume and run is None:
        print(f"resume: there is no run {pipeline}/{name} yet, so a new one begins", flush=True)
    fresh = run is None
    run = run or new_run(pipeline, name)
    for folder in (run.results, run.models):
        folder.mkdir(parents=True, exist_ok=True)  # a kill may have come between the two
    with lock_run(run):
        yield Job(run, config, split, fresh=True) if fresh else _go_on(run, config, split, (*FREE, *free))


def latest_run(pipeline: str, name: str, split: Split) -> Run | None:
    """Returns the run, or sweep, that was begun last of those that `new_run` names so."""
    found = []
    for folder in (RESULTS / pipeline, MODELS / pipeline):
        for path in folder.glob(f"{name}*") if folder.is_dir() else ():
            number = re.fullmatch(re.escape(name) + r"(-\d+)?", path.name)
            if number and path.is_dir():
                run = Run(f"{pipeline}/{path.name}")
                config = run.results / "config.yaml"
                if config.is_file():
                    record = read_yaml(config).get("run") or {}
                    if (record.get("split"), record.get("fold")) != (split.name, split.fold):
                        continue  # such as that of a list whose own name ends in a number
                begun = (config if config.is_file() else path).stat().st_mtime_ns
                found.append((begun, -int(number[1] or 0), run))
    return max(found, key=lambda one: one[:2])[2] if found else None


@contextmanager
def lock_run(run: Run) -> Iterator[None]:
    """Keeps other processes from a run, or sweep, until the end; UserError if another one trains it."""
    path = run.models / ".lock"

    def refuse() -> None:
        raise UserError(f"{run.name} is being trained by another process. Wait for it, or stop it first; without "
                        "--resume a new run begins.")

    with file_lock(path, refuse, "trains this run"):
        try:
            yield
        finally:
            with suppress(OSError):  # Windows cannot remove an open file; the next run takes it over
                path.unlink(missing_ok=True)


def _go_on(run: Run, config: Config, split: Split, free: tuple[str, ...]) -> Job:
    """Looks at how far a run came."""
    for folder in (run.results, run.models):
        remove_leftovers(folder)
    if not (run.results / "config.yaml").is_file():
        print(f"resume: {run.name} was stopped before it began, so it begins now", flush=True)
        return Job(run, config, split)
    own, record = run.read_config()
    _check_same(run, own, config, record, free)
    path = run.results / "summary.yaml"
    summary = read_yaml(path) if path.is_file() else {}
    if summary.get("state") in DONE:
        with suppress(OSError):
            remove_checkpoints(run.models)  # a kill may have come before it
        print(f"resume: {run.name} is {summary['state']}; nothing is left to do", flush=True)
        return Job(run, own, split, finished=True)
    log = run.results / "training_log.csv"
    if not has_checkpoint(run.models) and log.is_file() and len(pd.read_csv(log)) > 1:  # one: it was killed
        raise UserError(f"{run.name} has a log of several epochs but no checkpoint: an older busfast made it, or its "
                        f"{NAME} was removed. It is left as it is; leave out --resume to start a new run.")
    state = read_last(run.models)
    path.unlink(missing_ok=True)  # it is running again
    if state is None:
        for stale in (run.models / "best.pth", run.models / "final.pth", log):
            stale.unlink(missing_ok=True)
        print(f"resume: {run.name} has no checkpoint, so it begins again", flush=True)
        return Job(run, config, split)
    own_split = replace(read_split(run.results / "split.csv", split.root), name=record["split"], fold=record["fold"],
                        holdout=tuple(record["holdout"]), leaks=record["leaks"])
    check_unchanged(run.name, own_split.only("train", "valid"))
    here = {key: getattr(config, key) for key in ("threads", "cache", "device")}
    print(f"resume: {run.name} goes on after epoch {state['epochs']} of {own.epochs}", flush=True)
    return Job(run, replace(own, **here), own_split, record=record, state=state)


def _check_same(run: Run, own: Config, config: Config, record: dict[str, Any], free: tuple[str, ...]) -> None:
    """Refuses to go on with a configuration that would give another result."""
    differ = []
    for key in (item.name for item in dataclasses.fields(Config) if item.name not in free):
        there, here = getattr(own, key), getattr(config, key)
        if key == "data":
            same = Path(there).resolve() == Path(here).resolve()
        elif key == "holdout":  # the run has what was chosen; it may be left to be chosen again
            same = there == here or not here or record.get("split") != "center_holdout"
        else:
            same = there == here
        if not same:
            differ.append(f"{key} is {_say(there)} there and {_say(here)} here")
    if differ:
        raise UserError(f"{run.name} cannot go on with another configuration: {'; '.join(differ)}. Go on with its own "
                        f"({train_command(run, record)} --resume), or leave out --resume to start a new run.")


def _say(value) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def warn_of_other_bits(begun: dict[str, Any], now: dict[str, Any]) -> None:
    """Says what of the machine is not as in the record of when a run began, so that its last bits may differ."""
    old, new = (_flat({key: record.get(key, 1 if key == "processes" else None) for key in BITS})
                for record in (begun, now))
    differ = [f"{key} {old.get(key)} is now {new.get(key)}" for key in sorted(old.keys() | new.keys())
              if old.get(key) != new.get(key)]
    if differ:
        print(f"resume: the result will not be the same to the last bit as without a stop: {'; '.join(differ)}",
              flush=True)


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != "versions"} | (record["versions"] or {})
