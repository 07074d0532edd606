"""The main job, from top to bottom: configuration -> table -> split -> DataLoaders -> Learner -> fit -> run."""

import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import pandas as pd

from busfast.data.check import check_images
from busfast.data.fingerprint import fingerprint_images
from busfast.data.generators import generate
from busfast.data.places import image_paths
from busfast.data.rows import write_csv
from busfast.data.split import count_parts
from busfast.data.split_file import read_split, write_split
from busfast.data.table import find_table, read_table
from busfast.errors import UserError
from busfast.pipelines.config import Config
from busfast.results.runs import Run, discard_run, new_run, provenance, write_config, write_record
from busfast.results.splits import make_folds


def load_table(config: Config, splits: Sequence[str] = (),
               fold: str | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
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
    print(f"data: {len(table)} images in {table.attrs['root']}" + (", a PHANTOM (synthetic)" if is_phantom(config)
                                                                  else ""), flush=True)
    for note in table.attrs["notes"]:
        print(f"  {note}")
    for split in splits:
        make_folds(table, None, config, split, fold)
    return table, check_images(table)


def is_phantom(config: Config) -> bool:
    """Returns whether the data folder holds the synthetic phantom."""
    return (find_table(config.data).parent / "phantom.json").is_file()


def build(config: Config, parts: pd.DataFrame, model_dir: Path | str = "models"):
    """Makes the Learner of a configuration; says which device, loader and weights it got, and why.

    Args:
        config: the checked configuration.
        parts: the split table.
        model_dir: where the Learner saves.

    Returns:
        The Learner.
    """
    from fastai.torch_core import set_seed

    from busfast.models.learner import make_learner
    from busfast.pipelines.dataloaders import make_dls
    from busfast.pipelines.image import ImagePipeline
    from busfast.pipelines.loaders import REFERENCE, choose_device, choose_loader

    device = choose_device(config.device)
    loader, why = choose_loader(config.loader, device)
    print(f"device: {device.type}" + (" (auto)" if config.device == "auto" else ""))
    print(f"loader: {loader} ({why})" + (", for images that are not in the cache" if config.cache != "off" else "")
          + (f"; validation has the reference pixels, those of {REFERENCE}" if loader != REFERENCE else ""), flush=True)
    set_seed(config.seed, reproducible=True)
    image = ImagePipeline(config.size, config.resize, config.channels, config.hflip, config.vflip, config.rotate)
    dls = make_dls(parts, image, classes=config.classes, bs=config.bs, loader=loader, device=device.type,
                   threads=config.threads, cache=config.cache)
    learn = make_learner(dls, config.arch, weights=config.weights, dropout=config.dropout, lr=config.lr, wd=config.wd,
                         freeze=0 if config.freeze_after else config.freeze, path=".", model_dir=model_dir)
    print(f"model: {config.arch}; {learn.weights_used['text']}", flush=True)
    return learn


def check_environment(config: Config) -> None:
    """Refuses a model, stage, loader, device or weights file that is not there, before any image is read."""
    import timm

    from busfast.models.freeze import freeze_stages
    from busfast.models.weights import check_arch, load_state
    from busfast.pipelines.loaders import choose_device, choose_loader

    check_arch(config.arch)
    if config.freeze:
        freeze_stages(timm.create_model(config.arch), config.freeze, config.arch)
    choose_loader(config.loader, choose_device(config.device))
    if config.weights not in ("auto", "none"):
        load_state(config.weights)


def train_run(pipeline: str, config: Config, name: str, parts: pd.DataFrame, profile: bool = False) -> Run:
    """Trains one split and writes the run.

    Args:
        pipeline: names the run's folders, together with
        name: the split or fold.
        config: the checked configuration.
        parts: the split table, as `busfast.results.splits.split_data` returns it.
        profile: print after each epoch where its time went, and write profile.csv.

    Returns:
        The finished run.

    Raises:
        UserError: bad input, or a file that cannot be written.
    """
    from fastai.callback.progress import ProgressCallback

    from busfast.models.callbacks import (
        EarlyStopping,
        ProgressiveSize,
        SaveBest,
        SaveFinal,
        StopOnNaN,
        WarnCollapse,
        monitor_with,
    )
    from busfast.models.freeze import FreezeStages, worth_freezing
    from busfast.models.learner import cosine
    from busfast.models.profile import Profile
    from busfast.results.log import PlainProgress, TrainingLog, on_terminal

    monitor = monitor_with(config.monitor, config.measures)
    run = new_run(pipeline, name)
    record = {"pipeline": pipeline, "split": parts.attrs["split"], "fold": parts.attrs["fold"],
              "holdout": parts.attrs["holdout"], "leaks": parts.attrs["leaks"]}
    # What the pixels were is written down, so that a later look at the test part is at the same images.
    write_split(parts.assign(pixels=fingerprint_images(image_paths(parts))["pixels"]), run.results / "split.csv")
    parts = read_split(run.results / "split.csv", parts.attrs["root"])  # what is written is what is trained
    try:
        learn = build(config, parts, run.models)
    except BaseException:
        discard_run(run)  # nothing was trained: leave no empty run behind
        raise

    phantom = is_phantom(config)
    record |= _record(config, parts, learn)
    held = tuple(record["holdout"]) if record["split"] == "center_holdout" else config.holdout
    write_config(run, replace(config, holdout=held), record)
    print(f"run: {run.name}; writing {run.results}/ and {run.models}/", flush=True)

    schedule = cosine(config.lr, config.lr_min)
    caption = f"{run.name}, {config.arch}, {config.size} px" + (", PHANTOM (synthetic images)" if phantom else "")
    log = TrainingLog(run.results, schedule.scheds["lr"], caption)
    best = SaveBest(run.models / "best.pth", **monitor)
    stop = EarlyStopping(**monitor, patience=config.patience)
    callbacks = [schedule, log, best, stop, SaveFinal(run.models / "final.pth"), WarnCollapse(), StopOnNaN()]
    if config.freeze_after and worth_freezing(config.freeze, learn.weights_used["text"]):
        callbacks.append(FreezeStages(config.freeze, config.freeze_after, config.arch))
    if config.progressive:
        callbacks.append(ProgressiveSize(config.progressive))
    phases = Profile()
    if profile:
        callbacks.append(phases)
    if not on_terminal():
        learn.remove_cbs(ProgressCallback)
        callbacks.append(PlainProgress())
    start = time.monotonic()
    state = "failed"
    try:
        learn.fit(config.epochs, cbs=callbacks)
        state = "stopped early" if stop.stopped else "finished"
    except (KeyboardInterrupt, SystemExit):
        state = "interrupted"
        raise
    finally:
        summary = {"state": state, "epochs": len(getattr(log, "rows", [])), "best_epoch": best.best_epoch,
                   "monitor": config.monitor, "minutes": round((time.monotonic() - start) / 60, 2)}
        if state not in ("finished", "stopped early"):
            print(f"\n{state} after {summary['epochs']} epochs; what was written stays in {run.results}/ and "
                  f"{run.models}/", flush=True)
        # Where training failed, its error counts, not one of writing the summary (a full disk gives both).
        with nullcontext() if state in ("finished", "stopped early") else suppress(UserError):
            write_record(run.results / "summary.yaml", summary)
    if profile:
        write_csv(pd.DataFrame(phases.rows), run.results / "profile.csv", float_format="%.4f")
    _say_end(run, log.rows, best, config, phantom)
    if record["leaks"]:
        print(f"  warning: its split LEAKS ({record['leaks']} on two sides), so these scores are too good")
    return run


def _record(config: Config, parts: pd.DataFrame, learn) -> dict:
    """What a run was made with, in plain values."""
    from busfast.models.learner import class_weights

    weight = class_weights(list(learn.dls.train_ds.items["label"]), config.classes)
    counts = count_parts(parts, config.classes)
    return {
        "phantom": is_phantom(config), "device": learn.dls.device.type, "loader": learn.dls.train.loader_name,
        "cached_images": learn.dls.train.cached_images,
        "weights": {key: value if key == "text" else list(value) for key, value in learn.weights_used.items()},
        "class_weights": {name: round(float(value), 6) for name, value in zip(config.classes, weight, strict=True)},
        "counts": {part: {name: int(count) for name, count in row.items()} for part, row in counts.iterrows()},
        **provenance(find_table(config.data)),
    }


def _say_end(run: Run, rows: list[dict], best, config: Config, phantom: bool) -> None:
    print(f"\n{run.name}: {len(rows)} epochs" + (" of a PHANTOM (synthetic images; says nothing of patients)"
                                                 if phantom else ""))
    if best.best_epoch is None:
        print(f"  no epoch had a {config.monitor} that is a number: no best weights were kept")
    else:
        row = rows[best.best_epoch - 1]
        recalls = ", ".join(f"{name} {float(row[f'recall_{name}']):.3f}" for name in config.classes)
        print(f"  best epoch {best.best_epoch} by {config.monitor}: val_loss {float(row['val_loss']):.3f}, accuracy "
              f"{float(row['val_acc']):.3f}, macro AUC {float(row['macro_auc']):.3f}")
        print(f"  recall (validation): {recalls}")
    print(f"  log, curves: {run.results}/")
    print(f"  weights:     {run.models}/best.pth, final.pth")
    print("  research only, not a medical device", flush=True)
