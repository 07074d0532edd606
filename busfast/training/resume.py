"""Which run a training starts or continues: found, compared with the current configuration, and locked."""

import dataclasses
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from busfast.data.split import Split
from busfast.data.split_file import check_unchanged, read_split
from busfast.errors import UserError
from busfast.files import file_lock, remove_leftovers
from busfast.pipelines.config import Config
from busfast.training.checkpoint import NAME, has_checkpoint, read_last, remove_checkpoints
from busfast.training.job import Job, TrainOptions
from busfast.training.runs import DONE, LOCK, MODELS, RESULTS, Run, new_run, train_command
from busfast.yamlfile import read_yaml

# Keys of the configuration that may differ: where and how fast a run is trained, what other splits are made with, and
# what `evaluate` reports.
FREE = ("threads", "cache", "device", "splits", "source", "folds", "positive")
# Keys of the record that the last bits of a result depend on.
REPRODUCIBLE = ("versions", "platform", "device", "loader", "cached_images", "processes", "threads")


@contextmanager
def open_run(pipeline: str, name: str, config: Config, split: Split, options: TrainOptions) -> Iterator[Job]:
    """Finds or creates the run to train, and locks it until the end; arguments are those of `train_run`.

    Raises:
        UserError: the folders cannot be created; another process trains the run; it was started with another
            configuration; its images are missing or were changed.
    """
    runs = started_runs(pipeline, name, split) if options.resume else []
    run, job = _first_of(runs, config, options), None
    if run is None and runs:
        if options.several and runs[0].read_summary().get("state") in DONE:
            print(f"resume: {runs[0].name} has another configuration and is finished; a new run starts")
        else:
            run = runs[0]  # which says below what differs
    if run is None:
        if options.resume and not runs:
            print(f"resume: there is no run {pipeline}/{name} yet; a new one starts")
        run = new_run(pipeline, name)
        job = Job(run, config, split, fresh=True)
    for folder in (run.results, run.models):
        folder.mkdir(parents=True, exist_ok=True)  # a run killed before may have one of the two
    with lock_run(run):
        job = job or _continue(run, config, split, _free(options))
        if job.record is not None:
            _check_learner(run, job.record, options)
        yield job


def find_finished(pipeline: str, name: str, config: Config, split: Split, options: TrainOptions) -> Run | None:
    """Returns the run that `open_run` would find finished; None: there is something left to train."""
    run = _first_of(started_runs(pipeline, name, split), config, options)
    return run if run is not None and run.read_summary().get("state") in DONE else None


def _first_of(runs: list[Run], config: Config, options: TrainOptions) -> Run | None:
    return next((run for run in runs if _is_of(run, config, _free(options))), None)


def _free(options: TrainOptions) -> tuple[str, ...]:
    return (*FREE, "bs") if options.auto_bs else FREE


def started_runs(pipeline: str, name: str, split: Split) -> list[Run]:
    """Returns the runs, or sweeps, that `new_run` names so, the one that was started last first."""
    started = []
    for folder in (RESULTS / pipeline, MODELS / pipeline):
        for path in folder.glob(f"{name}*") if folder.is_dir() else ():
            number = re.fullmatch(re.escape(name) + r"(-\d+)?", path.name)
            if number and path.is_dir():
                run = Run(f"{pipeline}/{path.name}")
                config = run.results / "config.yaml"
                if config.is_file():
                    record = read_yaml(config).get("run") or {}
                    if (record.get("split"), record.get("fold")) != (split.name, split.fold):
                        continue  # such as that of lists whose own name ends in a number
                time = (config if config.is_file() else path).stat().st_mtime_ns
                started.append((time, -int(number[1] or 0), run.name))
    return [Run(run) for run in dict.fromkeys(name for *_, name in sorted(started, reverse=True))]


@contextmanager
def lock_run(run: Run) -> Iterator[None]:
    """Locks a run, or sweep, against other processes.

    Raises:
        UserError: another process trains it.
    """
    path = run.models / LOCK

    def refuse() -> None:
        raise UserError(f"{run.name} is being trained by another process. Wait for it, or stop it first; without "
                        "--resume a new run begins.")

    with file_lock(path, refuse, "trains this run"):
        try:
            yield
        finally:
            with suppress(OSError):  # Windows cannot remove an open file; the next run takes it over
                path.unlink(missing_ok=True)


def _continue(run: Run, config: Config, split: Split, free: tuple[str, ...]) -> Job:
    """Returns what is left to train of a run."""
    for folder in (run.results, run.models):
        remove_leftovers(folder)
    if not (run.results / "config.yaml").is_file():
        print(f"resume: {run.name} was stopped before its first epoch; it starts now")
        return Job(run, config, split)
    own, record = run.read_config()
    _check_same(run, own, config, record, free)
    state = run.read_summary().get("state")
    if state in DONE:
        with suppress(OSError):
            remove_checkpoints(run.models)  # unless it was killed before it did so itself
        print(f"resume: {run.name} is {state}; nothing is left to do{other_images(run, record, split)}")
        return Job(run, own, split, finished=True)
    log = run.results / "training_log.csv"
    if not has_checkpoint(run.models) and log.is_file() and len(pd.read_csv(log)) > 1:  # one: killed in epoch 1
        raise UserError(f"{run.name} has a log of several epochs but no checkpoint: an older busfast trained it, or "
                        f"its {NAME} was removed. It was not changed; leave out --resume to start a new run.")
    checkpoint = read_last(run.models)
    (run.results / "summary.yaml").unlink(missing_ok=True)  # it is running again
    if checkpoint is None:
        for stale in (run.models / "best.pth", run.models / "final.pth", log):
            stale.unlink(missing_ok=True)
        print(f"resume: {run.name} has no checkpoint; it starts again")
        return Job(run, config, split)
    own_split = replace(read_split(run.results / "split.csv", split.root), name=record["split"], fold=record["fold"],
                        holdout=tuple(record["holdout"]), leaks=record["leaks"])
    check_unchanged(run.name, own_split.only("train", "valid"))
    own = replace(own, **{key: getattr(config, key) for key in ("threads", "cache", "device")})
    print(f"resume: {run.name} continues after epoch {checkpoint['epochs']} of {own.epochs}"
          f"{other_images(run, record, split)}")
    return Job(run, own, own_split, record=record, state=checkpoint)


def other_images(run: Run, record: dict[str, Any], split: Split) -> str:
    """Returns a warning if a run was started with other images, labels or parts than those of now."""
    own = read_split(run.results / "split.csv", split.root).rows
    if {*zip(own["image"], own["label"], own["part"], strict=True)} == {
            *zip(split.rows["image"], split.rows["label"], split.rows["part"], strict=True)}:
        return ""
    before, now = record.get("label_decisions") or {}, split.cleaned
    if before == now:
        return (". WARNING: the table or the lists have changed since it was started; it keeps its own images, labels "
                f"and parts ({run.results / 'split.csv'}); train without --resume to take those of now")
    then, today = (f"{one['dropped']} dropped, {one['corrected']} corrected" if one else "none"
                   for one in (before, now))
    return (f". WARNING: it was started with other decisions about labels ({then}) than {(now or before)['file']} has "
            f"now ({today}) and keeps its own; train without --resume to heed those of now")


def _is_of(run: Run, config: Config, free: tuple[str, ...]) -> bool:
    """Returns whether a run is of this configuration, or has none yet."""
    try:
        if (run.results / "config.yaml").is_file():
            own, record = run.read_config()
            _check_same(run, own, config, record, free)
    except UserError:
        return False
    return True


def _check_learner(run: Run, record: dict[str, Any], options: TrainOptions) -> None:
    """Refuses another function for the Learner than the run was started with."""
    now = options.learner.record["sha256"] if options.learner is not None else None
    if now != (record.get("learner") or {}).get("sha256"):
        raise UserError(f"{run.name} was started {'with another' if record.get('learner') else 'without a'} --learner. "
                        f"Use its own ({train_command(run, record)} --resume), or leave out --resume to start a new "
                        "run.")


def _check_same(run: Run, own: Config, config: Config, record: dict[str, Any], free: tuple[str, ...]) -> None:
    """Refuses a configuration that would give another result."""
    differ = []
    for key in (item.name for item in dataclasses.fields(Config) if item.name not in free):
        there, here = getattr(own, key), getattr(config, key)
        if key == "data":
            same = Path(there).resolve() == Path(here).resolve()
        elif key == "holdout":  # a run's own has the chosen center
            same = there == here or not here or record.get("split") != "center_holdout"
        else:
            same = there == here
        if not same:
            there, here = (",".join(map(str, value)) if isinstance(value, tuple) else value for value in (there, here))
            differ.append(f"{key} is {there} there and {here} here")
    if differ:
        command, more = train_command(run, record), ""
        if own.epochs != config.epochs and run.read_summary().get("state") in DONE:
            epochs = config.epochs - own.epochs if config.epochs > own.epochs else config.epochs
            more = (f" It has ended; to train on from its best weights, as a new run whose learning rate falls anew: "
                    f"{command} --weights={run.models / 'best.pth'} --epochs={epochs}")
        raise UserError(f"{run.name} cannot be continued with another configuration: {'; '.join(differ)}. Use its own "
                        f"({command} --resume), or leave out --resume to start a new run.{more}")


def warn_if_not_reproducible(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Prints which packages or hardware have changed since a run was started: its last bits may differ.

    Args:
        before, now: records, as config.yaml keeps them.
    """
    unknown = {"processes": 1, "threads": now.get("threads")}  # in runs that an older busfast began
    old, new = (_flat({key: record.get(key, unknown.get(key)) for key in REPRODUCIBLE})
                for record in (before, now))
    differ = [f"{key} {old.get(key)} is now {new.get(key)}" for key in sorted(old.keys() | new.keys())
              if old.get(key) != new.get(key)]
    if differ:
        print(f"resume: the last bits of the result may differ from an uninterrupted run: {'; '.join(differ)}")


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != "versions"} | (record["versions"] or {})
