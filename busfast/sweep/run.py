"""Trains the trials of a sweep, whose values are chosen by the validation part only."""

from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from busfast.data.check import hash_pixels
from busfast.data.split import Split
from busfast.data.split_file import read_split, write_split
from busfast.errors import Interrupted, UserError
from busfast.pipelines.config import Config
from busfast.pipelines.splits import is_phantom
from busfast.sweep.report import format_trial, write_end, write_tables
from busfast.sweep.request import Request
from busfast.sweep.space import apply, ends, find_random_starts, format_distribution
from busfast.sweep.study import Sweep
from busfast.sweep.trial import train_trial
from busfast.sweep.workers import run_workers
from busfast.text import counted
from busfast.training.batch_size import measure_memory
from busfast.training.build import check_environment
from busfast.training.resume import FREE, lock_run, started_runs
from busfast.training.runs import Run, new_run, plain_values


def check_models(request: Request, params: str) -> Request:
    """Checks what only its models tell of a request, before any image is read; UserError if one cannot be trained.
    Returns the request without those that would start from random weights, if `params` does not name them."""
    space, config = dict(request.space), request.config
    if "arch" in space:
        space["arch"] = _drop_random_starts(space["arch"], config, named="arch=" in params)
    for arch in ends(space["arch"]) if "arch" in space else (config.arch,):
        backend = check_environment(apply(config, {"arch": arch, **_largest(space, "freeze")}))
    request = replace(request, space=space)
    if request.jobs > 1:
        _warn_of_memory(request, backend.device)
    return request


def _drop_random_starts(distribution, config: Config, named: bool):
    """Drops models without pretrained weights from the default choices; refuses them if the user named them."""
    random = find_random_starts(distribution.choices, config)
    if not random:
        return distribution
    reasons = "; ".join(f"{arch}: {text}" for arch, text in random.items())
    pretrained = [arch for arch in distribution.choices if arch not in random]
    if named or len(pretrained) < 2:
        raise UserError(f"Varying arch would compare pretrained with random weights: {', '.join(random)} would start "
                        f"from random weights ({reasons}). Name models with pretrained weights, allow the download, "
                        "start all models from random weights (--weights=none), or leave arch out.")
    print(f"arch: {', '.join(random)} left out: would start from random weights ({reasons})")
    return type(distribution)(pretrained)


def _largest(space: dict, *keys: str) -> dict[str, int]:
    return {key: max(ends(space[key])) for key in keys if key in space}


def _warn_of_memory(request: Request, device: torch.device) -> None:
    largest = apply(request.config, _largest(request.space, "size", "bs"))
    room = measure_memory(largest, device)
    need = request.jobs * room.needed(largest.bs)
    if room.free is not None and need > room.free:
        print(f"WARNING: {request.jobs} trials of size={largest.size}, bs={largest.bs} side by side need about "
              f"{need / 1e9:.1f} GB, but {room.free / 1e9:.1f} GB are free: try fewer --jobs")


def run_sweep(pipeline: str, request: Request, name: str, split: Split, resume: bool, command: str) -> Run:
    """Trains the trials, on a table without the test part; writes results/PIPELINE/sweep-NAME/ after each.
    `name`: of the split or fold; `split`: from `split_data`; `command`: as typed, printed after an interruption.
    UserError if it cannot be resumed, several trials in a row failed, or a file cannot be written."""
    run = next(iter(started_runs(pipeline, f"sweep-{name}", split)), None) if resume else None
    if resume and run is None:
        print(f"resume: no sweep {pipeline}/sweep-{name} yet: a new one begins")
    run = run or new_run(pipeline, f"sweep-{name}")
    for folder in (run.results, run.models):
        folder.mkdir(parents=True, exist_ok=True)  # a sweep that was killed may have made only one
    record = {"split": split.name, "fold": split.fold, "leaks": split.leaks}
    with lock_run(run):
        sweep = Sweep(run, request, _fixed_settings(request, record))
        _keep_split(sweep, split)
        if done := len(sweep.done()):
            print(f"resume: {run.name}: {done} of {counted(request.trials, 'trial')} done")
        no_test = split.only("train", "valid")
        _print_start(sweep)
        try:
            _train_trials(sweep, no_test, pipeline, record)
        except OSError as error:
            raise UserError(f"Cannot write into {run.results}: {error.strerror or error}. Make room, then continue "
                            "with --resume.") from error
        except (KeyboardInterrupt, SystemExit) as stop:
            print(f"\ninterrupted: {len(sweep.done())} of {counted(request.trials, 'trial')} done\n  to continue: "
                  f"{command} --resume")
            if isinstance(stop, KeyboardInterrupt):
                raise Interrupted from stop
            raise
        finally:
            with suppress(OSError, UserError):  # the first error is the one to report
                sweep.interrupt()
                write_tables(sweep, pipeline, record)
        write_end(sweep, record, run.name + (", PHANTOM (synthetic images)" if is_phantom(request.config) else ""))
    return run


def _train_trials(sweep: Sweep, split: Split, pipeline: str, record: dict[str, Any]) -> None:
    request = sweep.request

    def conclude(trial, outcome):
        concluded = sweep.conclude(trial, outcome)
        write_tables(sweep, pipeline, record)
        print(format_trial(sweep, concluded))
        sweep.check_failures()

    if request.jobs > 1:
        run_workers(request.jobs, sweep.run, split, request.objective, sweep.next, sweep.report, conclude)
        return
    while drawn := sweep.next():
        trial, config = drawn
        conclude(trial, train_trial(sweep.run, trial.number, config, split, request.objective,
                                    partial(sweep.report, trial)))


def _fixed_settings(request: Request, record: dict[str, Any]) -> dict[str, Any]:
    """Settings that must not change on resume; the data are checked by split.csv, which has the pixels' hashes."""
    return {**{key: value for key, value in plain_values(request.config).items() if key not in (*FREE, "data")},
            "split": record["split"], "fold": record["fold"], "objective": request.objective, "pruner": request.pruner,
            "params": ", ".join(f"{key} {format_distribution(values)}" for key, values in request.space.items())}


def _print_start(sweep: Sweep) -> None:
    request, run = sweep.request, sweep.run
    print(f"sweep: {counted(request.trials, 'trial')} of {counted(request.config.epochs, 'epoch')}, "
          f"{request.jobs} at a time, without the test part")
    for key, distribution in request.space.items():
        print(f"  {key}: {format_distribution(distribution)}")
    if sweep.outside:
        print(f"  the pipeline's own values are not tried: {', '.join(sweep.outside)} is outside the range")
    print(f"  best: by {request.objective} of the validation part, at the epoch that {request.config.monitor} chooses\n"
          f"  output of each trial: {run.results}/trial-*.txt")


def _keep_split(sweep: Sweep, split: Split) -> None:
    """Writes split.csv; UserError if images were changed, added or removed since the sweep began."""
    path, columns = sweep.run.results / "split.csv", ["image", "label", "part", "pixels"]
    split = hash_pixels(split)
    if not path.is_file():
        if sweep.trials():
            raise UserError(f"{path} is missing, and with it which images the trials saw. Restore it, or leave out "
                            "--resume to begin a new sweep.")
        write_split(split, path)
        return
    then, now = read_split(path, split.root).rows, split.rows.assign(pixels=split.rows["image"].map(split.pixels))
    if not set(columns) <= set(then) or \
            then[columns].astype(str).values.tolist() != now[columns].astype(str).values.tolist():
        raise UserError(f"The images, labels or parts differ from those that {sweep.run.name} was begun with ({path}). "
                        "Restore them, or leave out --resume to begin a new sweep.")
