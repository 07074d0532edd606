"""python -m busfast sweep: many trainings of one split, each with other values, chosen by the validation part alone."""

from contextlib import suppress
from functools import partial
from typing import Any

import pandas as pd

from busfast.data.fingerprint import fingerprint_images
from busfast.data.paths import image_paths
from busfast.data.split_file import read_split, write_split
from busfast.errors import UserError, choose
from busfast.pipelines.config import Config
from busfast.pipelines.settings import convert
from busfast.processes import cores
from busfast.sweep.report import format_trial, write_end, write_tables
from busfast.sweep.space import apply, compare_starts, ends, format_distribution, read_space
from busfast.sweep.study import Request, Sweep
from busfast.sweep.trial import train_trial
from busfast.sweep.workers import run_workers
from busfast.text import counted
from busfast.training.batch_size import measure_room
from busfast.training.resume import FREE, latest_run, lock_run
from busfast.training.runs import Run, new_run, plain_values
from busfast.training.train import check_environment, is_phantom

PRUNERS = ("median", "none")


def check_request(config: Config, params: str, trials: int | str, jobs: int | str, objective: str,
                  pruner: str) -> Request:
    """Checks what a sweep is asked for, before any image is read.

    Args:
        config: the checked configuration.
        params: keys to vary; see `read_space`.
        trials, jobs: how many trainings, and how many of them side by side; numbers or their text.
        objective: a logged column.
        pruner: one of `PRUNERS`.

    Raises:
        UserError: anything that cannot be.
    """
    trials, jobs = convert("trials", trials, int), convert("jobs", jobs, int)
    for key, value, most in (("trials", trials, 10_000), ("jobs", jobs, cores())):
        if not 1 <= value <= most:
            raise UserError(f"{key}={value} is out of range: give a number from 1 to {most}"
                            + (", the cores of this machine." if key == "jobs" else "."))
    choose("objective", objective, config.measures)
    choose("monitor", config.monitor, config.measures)
    choose("pruner", pruner, PRUNERS)
    space = read_space(params, config)
    if "arch" in space:
        space["arch"] = _fair_archs(space["arch"], config, named="arch=" in params)
    for arch in ends(space["arch"]) if "arch" in space else (config.arch,):
        check_environment(apply(config, {"arch": arch, **_largest(space, "freeze")}))
    request = Request(config, space, trials, min(jobs, trials), objective, pruner)
    if request.jobs > 1:
        _warn_of_memory(request)
    return request


def _fair_archs(distribution, config: Config, named: bool):
    """Takes models without pretrained weights out of those that are built in; refuses them where they were named."""
    poor = compare_starts(distribution.choices, config)
    if not poor:
        return distribution
    why = "; ".join(f"{arch}: {text}" for arch, text in poor.items())
    rest = [arch for arch in distribution.choices if arch not in poor]
    if named or len(rest) < 2:
        raise UserError(f"To vary arch would be to compare pretrained with random weights, for there are none of "
                        f"{', '.join(poor)} here ({why}). Name models with weights, let them be fetched, start all "
                        "from random ones (--weights=none), or leave arch out.")
    print(f"arch: {', '.join(poor)} left out, for they would start from random weights ({why})", flush=True)
    return type(distribution)(rest)


def _largest(space: dict, *keys: str) -> dict[str, int]:
    return {key: max(ends(space[key])) for key in keys if key in space}


def _warn_of_memory(request: Request) -> None:
    largest = apply(request.config, _largest(request.space, "size", "bs"))
    room = measure_room(largest)
    need = request.jobs * room.needs(largest.bs)
    if room.free is not None and need > room.free:
        print(f"WARNING: {request.jobs} trials of size={largest.size}, bs={largest.bs} side by side take about "
              f"{need / 1e9:.1f} GB, and {room.free / 1e9:.1f} GB are free: try fewer --jobs", flush=True)


def run_sweep(pipeline: str, request: Request, name: str, parts: pd.DataFrame, resume: bool, command: str) -> Run:
    """Trains the trials, and writes results/PIPELINE/sweep-NAME/ as they end.

    The trials are given a table without the test part.

    Args:
        pipeline: names the folders, together with
        request: what is asked for.
        name: the split or fold.
        parts: the split table, as `busfast.pipelines.splits.split_data` returns it.
        resume: go on with the newest sweep of that name.
        command: what was typed, for whom it was interrupted.

    Returns:
        The sweep's folders.

    Raises:
        UserError: it cannot go on; several trials in a row failed; a file cannot be written.
    """
    run = latest_run(pipeline, f"sweep-{name}", parts) if resume else None
    if resume and run is None:
        print(f"resume: there is no sweep {pipeline}/sweep-{name} yet, so a new one begins", flush=True)
    run = run or new_run(pipeline, f"sweep-{name}")
    for folder in (run.results, run.models):
        folder.mkdir(parents=True, exist_ok=True)  # a kill may have come between the two
    record = {key: parts.attrs[key] for key in ("split", "fold", "leaks")}
    with lock_run(run):
        sweep = Sweep(run, request, _say_asked(request, record))
        _keep_split(sweep, parts)
        if done := len(sweep.done()):
            print(f"resume: {run.name} goes on; {done} of {counted(request.trials, 'trial')} are done", flush=True)
        seen = parts[parts["part"].isin(("train", "valid"))].reset_index(drop=True)
        seen.attrs |= parts.attrs
        _say_begin(sweep)
        try:
            _train_all(sweep, seen, pipeline, record)
        except OSError as error:
            raise UserError(f"Cannot write into {run.results}: {error.strerror or error}. Make room; the same command "
                            "with --resume goes on.") from error
        except (KeyboardInterrupt, SystemExit):
            print(f"\ninterrupted; {len(sweep.done())} of {counted(request.trials, 'trial')} are done\n  to go on: "
                  f"{command} --resume", flush=True)
            raise
        finally:
            with suppress(OSError, UserError):  # what ended it counts
                sweep.interrupt()
                write_tables(sweep, pipeline, record)
        write_end(sweep, record, run.name + (", PHANTOM (synthetic images)" if is_phantom(request.config) else ""))
    return run


def _train_all(sweep: Sweep, seen: pd.DataFrame, pipeline: str, record: dict[str, Any]) -> None:
    request = sweep.request

    def conclude(trial, outcome):
        told = sweep.conclude(trial, outcome)
        write_tables(sweep, pipeline, record)
        print(format_trial(sweep, told), flush=True)
        sweep.check_failures()

    if request.jobs > 1:
        run_workers(request.jobs, sweep.run, seen, request.objective, sweep.next, sweep.hear, conclude)
        return
    while following := sweep.next():
        trial, config = following
        conclude(trial, train_trial(sweep.run, trial.number, config, seen, request.objective,
                                    partial(sweep.hear, trial)))


def _say_asked(request: Request, record: dict[str, Any]) -> dict[str, Any]:
    """What must be the same when a sweep goes on; the data are held by its split.csv, with the pixels' hashes."""
    return {**{key: value for key, value in plain_values(request.config).items() if key not in (*FREE, "data")},
            "split": record["split"], "fold": record["fold"], "objective": request.objective, "pruner": request.pruner,
            "params": ", ".join(f"{key} {format_distribution(one)}" for key, one in request.space.items())}


def _say_begin(sweep: Sweep) -> None:
    request, run = sweep.request, sweep.run
    print(f"sweep: {counted(request.trials, 'trial')} of {request.config.epochs} epochs, "
          f"{request.jobs} at a time; the test part is left out of their table")
    for key, distribution in request.space.items():
        print(f"  {key}: {format_distribution(distribution)}")
    if sweep.outside:
        print(f"  the pipeline's own values are not tried: they lie outside in {', '.join(sweep.outside)}")
    print(f"  best: by {request.objective} of the validation part, at the epoch that {request.config.monitor} chooses\n"
          f"  what each trial says: {run.results}/trial-*.txt", flush=True)


def _keep_split(sweep: Sweep, parts: pd.DataFrame) -> None:
    """Writes split.csv, or makes sure that it is the same as when the sweep began.

    Raises:
        UserError: images were changed, added or removed.
    """
    path, kept = sweep.run.results / "split.csv", ["image", "label", "part", "pixels"]
    now = parts.assign(pixels=fingerprint_images(image_paths(parts))["pixels"])
    if not path.is_file():
        if sweep.trials():
            raise UserError(f"{path} is gone, so it is not known of which images the trials were. Leave out --resume "
                            "to begin a new sweep.")
        write_split(now, path)
        return
    then = read_split(path, parts.attrs["root"])
    if not set(kept) <= set(then) or then[kept].astype(str).values.tolist() != now[kept].astype(str).values.tolist():
        raise UserError(f"The images, labels or parts are not those that {sweep.run.name} was begun with ({path}). "
                        "Bring the old ones back, or leave out --resume to begin a new sweep.")
