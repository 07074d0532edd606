"""The main job, from top to bottom: configuration and split -> Learner -> fit -> run."""

from dataclasses import asdict, replace
from typing import Any

import torch
from fastai.learner import Learner

from busfast import processes
from busfast.csvfile import write_csv
from busfast.data.check import hash_pixels
from busfast.data.open_data import hash_data
from busfast.data.quarantine import LEFT_OUT_FILE, find_left_out
from busfast.data.split import Split, count_parts
from busfast.data.split_file import read_split, write_split
from busfast.files import atomic
from busfast.models.arch import check_arch
from busfast.models.losses import class_weights
from busfast.models.weights import StartWeights
from busfast.pipelines.backends import choose_backend
from busfast.pipelines.config import Config
from busfast.pipelines.read_images import with_classes
from busfast.pipelines.splits import is_phantom
from busfast.training.batch_size import fit_batch_size
from busfast.training.build import build
from busfast.training.distributed.store import check_batch_size, start_workers
from busfast.training.distributed.sync_batchnorm import check_last_batches
from busfast.training.fit import fit_run
from busfast.training.job import TrainOptions
from busfast.training.resume import open_run, warn_if_not_reproducible
from busfast.training.runs import LEARNER_FILE, Run, discard_run, provenance, write_config
from busfast.training.trackers import track


def train_run(pipeline: str, config: Config, name: str, split: Split,
              options: TrainOptions | None = None) -> Run:
    """Trains one split and writes the run.

    Args:
        pipeline: first part of the run's name.
        config: the checked configuration.
        name: second part of the run's name: split or fold.
        split: as `busfast.pipelines.splits.split_data` returns it.
        options: see `TrainOptions`; None: all defaults.

    Returns:
        The finished run.

    Raises:
        UserError: bad input, or a file that cannot be written.
    """
    options = options or TrainOptions()
    config = full_config(config, split)
    backend = options.backend or choose_backend(config.loader, config.device)
    with open_run(pipeline, name, config, split, options) as job:
        run, first_epoch = job.run, job.state is None
        if job.finished:
            return run
        try:
            config, smaller_bs = fit_batch_size(job.config, options.auto_bs and first_epoch, backend.device)
            check_batch_size(config.bs)
            # What is written is what is trained. A continued run keeps its start weights, whatever a hub has by now.
            split = _write_split(run, job.split) if first_epoch else job.split
            weights = None if job.record is None else StartWeights(**job.record["weights"])
            learn = build(config, split, run.models, weights, backend)
            if options.learner is not None:
                options.learner.apply(learn)
            check_last_batches(learn)
            start_workers({"run": run.name, "config": asdict(config), "root": str(split.root),
                           "weights": learn.weights_used})
        except BaseException:
            if job.fresh:
                discard_run(run)  # nothing was trained: leave no empty run behind
            raise
        record = {"pipeline": pipeline, **split.record(), **_record(config, split, learn)}
        if options.learner is not None:
            record["learner"] = options.learner.record
            with atomic(run.results / LEARNER_FILE, "wb") as file:
                file.write(options.learner.source)
        if job.record is None:
            holdout = split.holdout if split.name == "center_holdout" else config.holdout
            write_config(run, replace(config, holdout=holdout), record)
        else:
            warn_if_not_reproducible(job.record, record)
        print(f"run: {run.name}; writing {run.results}/ and {run.models}/")
        with track(run, options.trackers, 0 if job.state is None else job.state["epochs"]) as trackers:
            fit_run(replace(job, config=config, split=split, record=record), learn, record["phantom"], smaller_bs,
                    replace(options, callbacks=[*trackers, *options.callbacks]))
    if split.leaks:
        print(f"  warning: its split LEAKS ({split.leaks} on two sides), so these scores are too good")
    return run


def full_config(config: Config, split: Split) -> Config:
    """Returns a configuration as its run records it: with the classes, and timm's name, which other verbs know."""
    return replace(with_classes(config, split), arch=check_arch(config.arch))


def _write_split(run: Run, split: Split) -> Split:
    """Writes split.csv, with the hashes of the pixels, so that the same images are evaluated, and reads it back; and
    which images are in none of its parts."""
    split = hash_pixels(split)
    write_split(split, run.results / "split.csv")
    if len(left_out := find_left_out(split)):
        write_csv(left_out, run.results / LEFT_OUT_FILE)
    return replace(split, rows=read_split(run.results / "split.csv", split.root).rows)


def _record(config: Config, split: Split, learn: Learner) -> dict[str, Any]:
    """Returns what a run is made with, in plain values."""
    labels, classes = list(learn.dls.train_ds.items["label"]), config.classes
    weighted = config.loss in ("auto", "weighted") and not config.label_delim
    weight = class_weights(labels, classes) if weighted else [1.0] * len(classes)
    counts = count_parts(split, classes, config.label_delim)
    return {
        "phantom": is_phantom(config), "device": learn.dls.device.type, "loader": learn.dls.train.loader_name,
        "processes": processes.world_size(), "threads": torch.get_num_threads(),
        "cached_images": learn.dls.train.cached_images,
        "weights": {key: value if key == "text" else list(value) for key, value in learn.weights_used.items()},
        "class_weights": {name: round(float(value), 6) for name, value in zip(classes, weight, strict=True)},
        "counts": {part: {name: int(count) for name, count in row.items()} for part, row in counts.iterrows()},
        **provenance(hash_data(config.data)),
    }
