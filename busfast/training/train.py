"""The main job, from top to bottom: configuration -> table -> split -> DataLoaders -> Learner -> fit -> run."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from busfast import processes
from busfast.data.check import hash_pixels, inspect_images
from busfast.data.generators import generate
from busfast.data.split import Split, count_parts
from busfast.data.split_file import read_split, write_split
from busfast.data.table import Table, find_table, read_table
from busfast.errors import choose
from busfast.pipelines.config import Config
from busfast.pipelines.splits import make_folds
from busfast.training.runs import Run, discard_run, provenance, train_command, write_config

if TYPE_CHECKING:  # the checks of a table need no torch
    import torch
    from fastai.learner import Learner

    from busfast.models.weights import StartWeights


def load_table(config: Config, splits: Sequence[str] = (), fold: str | None = None) -> tuple[Table, pd.DataFrame]:
    """Reads the table of a configuration, made first if it comes from a source; looks at every image once.

    Args:
        config: the checked configuration.
        splits, fold: what is to be split, refused before the images are read if it cannot be.

    Returns:
        The table, and the pairs of copies among its images; see `check_images`.

    Raises:
        UserError: anything wrong with the table or its images.
    """
    generate(config.source, config.data)
    table = read_table(config.data, config.classes)
    print(f"data: {len(table)} images in {table.root}" + (", a PHANTOM (synthetic)" if is_phantom(config)
                                                                  else ""), flush=True)
    for note in table.notes:
        print(f"  {note}")
    for split in splits:
        make_folds(table, None, config, split, fold)
    return inspect_images(table)


def is_phantom(config: Config) -> bool:
    """Returns whether the data folder holds the synthetic phantom."""
    return (find_table(config.data).parent / "phantom.json").is_file()


def build(config: Config, split: Split | pd.DataFrame, model_dir: Path | str = "models",
          weights: "StartWeights | None" = None) -> "Learner":
    """Makes the Learner of a configuration; says which device, loader and weights it got, and why. `weights` are those
    that a run began with, where it goes on; default: those of the configuration.
    """
    import torch
    from fastai.torch_core import set_seed

    from busfast.models.learner import make_learner
    from busfast.pipelines.backends import REFERENCE, choose_device, choose_loader
    from busfast.pipelines.dataloaders import make_dls
    from busfast.pipelines.image import ImagePipeline

    device, world_size = choose_device(config.device), processes.world_size()
    if processes.world_size() > 1 and device.type == "cuda":
        torch.cuda.set_device(processes.local_rank())
    loader, why = choose_loader(config.loader, device)
    print(f"device: {device.type}" + (" (auto)" if config.device == "auto" else "")
          + (f"; {world_size} processes share each batch of {config.bs}" if world_size > 1 else ""))
    print(f"loader: {loader} ({why})" + (", for images that are not in the cache" if config.cache != "off" else "")
          + (f"; validation has the reference pixels, those of {REFERENCE}" if loader != REFERENCE else ""), flush=True)
    set_seed(config.seed, reproducible=True)
    image = ImagePipeline(config.size, config.resize, config.channels, config.hflip, config.vflip, config.rotate)
    threads = config.threads or (processes.cores_per_process(processes.local_world_size()) if world_size > 1 else 0)
    dls = make_dls(split, image, classes=config.classes, bs=config.bs, loader=loader, device=device.type,
                   threads=threads, cache=config.cache, place=(processes.rank(), processes.world_size()))
    learn = make_learner(dls, config.arch, weights=weights or config.weights, dropout=config.dropout, lr=config.lr,
                         wd=config.wd, freeze=0 if config.freeze_after else config.freeze, path=".",
                         model_dir=model_dir)
    print(f"model: {config.arch}; {learn.weights_used['text']}", flush=True)
    return learn


def check_environment(config: Config) -> "torch.device":
    """Returns the torch device; UserError, before any image is read, if a model, loader, device or file is missing."""
    import timm

    from busfast.models.freeze import freeze_stages
    from busfast.models.weight_files import load_state
    from busfast.models.weights import check_arch
    from busfast.pipelines.backends import choose_device, choose_loader
    from busfast.training.distributed.store import check_processes

    check_arch(config.arch)
    if config.freeze:
        freeze_stages(timm.create_model(config.arch), config.freeze, config.arch)
    device = choose_device(config.device)
    choose_loader(config.loader, device)
    check_processes(config)
    if config.weights not in ("auto", "none"):
        load_state(config.weights)
    return device


def train_run(pipeline: str, config: Config, name: str, split: Split, profile: bool = False,
              resume: bool = False, auto_bs: bool = False, command: str = "", trackers: Sequence[str] = (),
              callbacks: Sequence = ()) -> Run:
    """Trains one split and writes the run.

    Args:
        pipeline: names the run's folders, together with
        name: the split or fold.
        config: the checked configuration.
        split: as `busfast.pipelines.splits.split_data` returns it.
        profile: print after each epoch where its time went, and write profile.csv.
        resume: go on with the newest run of that name, if it is not done.
        auto_bs: a run that begins takes the largest batch that fits if `config.bs` does not.
        command: what was typed, for whom it was interrupted; default: what trains this run.
        trackers: as `busfast.training.trackers.choose_trackers` returns them.
        callbacks: of fastai, besides those of every run.

    Returns:
        The finished run.

    Raises:
        UserError: bad input, or a file that cannot be written.
    """
    from busfast.models.weights import StartWeights
    from busfast.training.batch_size import fit_batch_size
    from busfast.training.distributed.store import check_batch_size, start_workers
    from busfast.training.distributed.sync_batchnorm import check_last_batches
    from busfast.training.fit import fit_run
    from busfast.training.resume import open_run, warn_of_other_bits
    from busfast.training.trackers import track

    choose("monitor", config.monitor, config.measures)
    with open_run(pipeline, name, config, split, resume, free=("bs",) if auto_bs else ()) as job:
        run, config, split = job.run, job.config, job.split
        if job.finished:
            return run
        try:
            config, smaller = fit_batch_size(config, auto_bs and job.state is None)
            check_batch_size(config.bs)
            weights = None
            if job.state is None:
                split = _write_split(run, split)  # what is written is what is trained
            else:  # the hub is not asked again, and another start not drawn
                weights = StartWeights(*(job.record["weights"][key] for key in ("text", "mean", "std")))
            learn = build(config, split, run.models, weights)
            check_last_batches(learn)
            start_workers({"run": run.name, "config": asdict(config), "root": str(split.root),
                           "weights": learn.weights_used})
        except BaseException:
            if job.fresh:
                discard_run(run)  # nothing was trained: leave no empty run behind
            raise
        record = {"pipeline": pipeline, **split.record(), **_record(config, split, learn)}
        if job.state is None:
            held = tuple(record["holdout"]) if record["split"] == "center_holdout" else config.holdout
            write_config(run, replace(config, holdout=held), record)
        else:
            warn_of_other_bits(job.record, record)
        print(f"run: {run.name}; writing {run.results}/ and {run.models}/", flush=True)
        with track(run, trackers, job.state["epochs"] if job.state else 0) as told:
            fit_run(run, config, split, learn, record["phantom"], job.state, profile, smaller,
                    command or train_command(run, record), [*told, *callbacks])
    if record["leaks"]:
        print(f"  warning: its split LEAKS ({record['leaks']} on two sides), so these scores are too good")
    return run


def _write_split(run: Run, split: Split) -> Split:
    """Writes split.csv, with the hashes of the pixels, so that the same images are evaluated, and reads it back."""
    split = hash_pixels(split)
    write_split(split, run.results / "split.csv")
    return replace(split, rows=read_split(run.results / "split.csv", split.root).rows)


def _record(config: Config, split: Split, learn) -> dict:
    """What a run was made with, in plain values."""
    from busfast.models.learner import class_weights

    weight = class_weights(list(learn.dls.train_ds.items["label"]), config.classes)
    counts = count_parts(split, config.classes)
    return {
        "phantom": is_phantom(config), "device": learn.dls.device.type, "loader": learn.dls.train.loader_name,
        "processes": processes.world_size(), "cached_images": learn.dls.train.cached_images,
        "weights": {key: value if key == "text" else list(value) for key, value in learn.weights_used.items()},
        "class_weights": {name: round(float(value), 6) for name, value in zip(config.classes, weight, strict=True)},
        "counts": {part: {name: int(count) for name, count in row.items()} for part, row in counts.iterrows()},
        **provenance(find_table(config.data)),
    }
