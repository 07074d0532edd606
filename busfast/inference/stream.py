"""A trained model and new images -> one row an image, unreadable ones included."""

import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat

from busfast.data.images import why_unreadable
from busfast.errors import UserError
from busfast.inference.engines import Engine, Found, TorchEngine
from busfast.inference.load_bundle import Ensemble
from busfast.models.memory import keep_freed_memory
from busfast.models.weights import load_arch_state, load_state, make_model
from busfast.pipelines.config import Config
from busfast.pipelines.dataloaders import inference_dls
from busfast.pipelines.image import ImagePipeline
from busfast.progress import map_ahead, progress


def load_model(path: Path, arch: str, image: ImagePipeline, classes: tuple[str, ...], *, bs: int = 32,
               device: str = "auto", threads: int = 0, members: int = 0) -> Learner:
    """Makes a Learner for inference from saved weights (tensors only; no code of the file is run).

    Args:
        path, arch, image, classes: the weights, and what they are of.
        bs, device, threads: how images are read and inferred.
        members: how many models the file holds, whose mean is asked for; 0: it is one model's.

    Raises:
        UserError: the weights are missing, broken, or of another model.
    """
    keep_freed_memory()
    model = load_ensemble(arch, path, len(classes), members) if members else \
        make_model(arch, str(path), len(classes), 0.0)[0]
    dls = inference_dls(image, classes, bs=bs, device=device, threads=threads)
    return Learner(dls, model.to(dls.device, memory_format=torch.channels_last), loss_func=CrossEntropyLossFlat())


def load_run_model(path: Path, config: Config, record: dict[str, Any], **flags) -> Learner:
    """Loads the weights of a run the way the run was trained.

    Args:
        path: the weights.
        config, record: as `Run.read_config` returns them.
        flags: bs, device and threads of `load_model`, if they shall be others than in training.

    Raises:
        As `load_model`.
    """
    image = run_image(config, record)
    given: dict[str, Any] = {"device": config.device, "threads": config.threads,
                             "members": len(record.get("members") or ())} | flags
    return load_model(path, config.arch, image, config.classes, **given)


def run_image(config: Config, record: dict[str, Any]) -> ImagePipeline:
    """Returns how a run's model sees images: without augmentation, normalised as its weights expect.

    Raises:
        UserError: the record does not say how.
    """
    try:
        mean, std = (tuple(map(float, record["weights"][name])) for name in ("mean", "std"))
        good = len(mean) == len(std) == 3 and all(map(math.isfinite, mean + std)) and min(std) > 0
    except (KeyError, TypeError, ValueError, OverflowError):
        good = False
    if not good:
        raise UserError("The run's config.yaml does not say how images are normalised (run: weights: mean and std, "
                        "three numbers each). Bring the old file back, or train again.")
    return ImagePipeline(config.size, config.resize, config.channels, mean=mean, std=std)


def predict_logits(learn: Learner, paths: Sequence[str | Path]) -> tuple[np.ndarray, list[str]]:
    """Predicts images through the very pixels of validation; each file is read once, while the model is at work.

    Args:
        learn: as `load_model` or `make_learner` gives it.
        paths: image files.

    Returns:
        Logits, float32 (n, classes), in order, and why each image could not be read ("" where it was; NaN if not).
    """
    dl = learn.dls.valid
    print(f"predicting {len(paths)} images on {learn.dls.device}", flush=True)
    reasons, logits = [], np.full((len(paths), len(learn.dls.vocab)), np.nan, np.float32)
    engine = TorchEngine(learn.model, dl.image, learn.dls.device)
    for why, found in stream(engine, paths, bs=dl.bs, threads=dl.threads):
        rows = len(reasons) + np.flatnonzero([not reason for reason in why])
        if found is not None:
            logits[rows] = found.logits
        reasons += why
    return logits, reasons


def stream(engine: Engine, paths: Sequence[str | Path], *, bs: int, threads: int = 0,
           jobs: int = 1) -> Iterator[tuple[list[str], Found | None]]:
    """Predicts images, `bs` of them after the other, with a few batches in memory however many there are.

    Args:
        engine: one of `busfast.inference.engines`.
        paths: image files.
        bs: images at once.
        threads: that read images; 0: one a core.
        jobs: batches that are inferred side by side, each with its share of the cores.

    Yields:
        In order: why each image could not be read ("" where it was), and what the engine says of those that could
        (None if there is none).
    """
    cores = os.cpu_count()

    def read(path):
        try:
            return engine.read(path)
        except Exception as error:
            return why_unreadable(error)

    def infer(some):
        images = [one for one in some if not isinstance(one, str)]
        return [one if isinstance(one, str) else "" for one in some], engine.infer(images) if images else None

    share = {"initializer": torch.set_num_threads, "initargs": (max(1, cores // jobs),)} if jobs > 1 else {}
    with ThreadPoolExecutor(threads or cores) as readers, ThreadPoolExecutor(jobs, **share) as workers:
        images = progress(map_ahead(readers, read, paths, (jobs + 2) * bs), "predicting images", len(paths))
        yield from map_ahead(workers, infer, iter(lambda: list(islice(images, bs)), []), jobs + 1)


def predict_images(learn: Learner, paths: list[str | Path]) -> pd.DataFrame:
    """Predicts images; see `predict_logits`.

    Returns:
        A row an input, in order: image, status ("ok" or "unreadable"), predicted (the most probable class),
        p_<class> for each (they sum to 1), reason (why it could not be read). Empty cells where unreadable.
    """
    classes = list(learn.dls.vocab)
    logits, reasons = predict_logits(learn, paths)
    table = pd.DataFrame({"image": [str(path) for path in paths],
                          "status": ["unreadable" if reason else "ok" for reason in reasons],
                          "predicted": ["" if reason else classes[row.argmax()]
                                        for reason, row in zip(reasons, logits, strict=True)]})
    probabilities = torch.from_numpy(logits).softmax(dim=1).numpy()
    for index, name in enumerate(classes):
        table[f"p_{name}"] = probabilities[:, index]
    table["reason"] = reasons
    return table


def load_ensemble(arch: str, path: Path, classes: int, members: int) -> Ensemble:
    """Makes an ensemble of timm models from a file that `join_states` gave the content of; raises as `load_state`."""
    state = load_state(path)
    parts = [{name.removeprefix(start): value for name, value in state.items() if name.startswith(start)}
             for start in (f"members.{number}." for number in range(members))]
    if sum(map(len, parts)) < len(state):
        raise UserError(f"The weights in '{path}' are not of {members} members. Make the ensemble anew.")
    return Ensemble([load_arch_state(arch, path, one, {"num_classes": classes})[0] for one in parts])


def join_states(paths: Sequence[Path]) -> dict[str, torch.Tensor]:
    """Reads the weights of several models; returns those of an `Ensemble` of them."""
    return {f"members.{number}.{name}": value for number, path in enumerate(paths)
            for name, value in load_state(path).items()}
