"""A trained model and new images -> one row an image, unreadable ones included."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat

from busfast.data.images import fit_pixels, why_unreadable
from busfast.data.places import locate, read_places
from busfast.data.rows import read_rows
from busfast.models.fold import fold_batchnorm
from busfast.models.memory import keep_freed_memory
from busfast.models.weights import make_model
from busfast.pipelines.config import Config
from busfast.pipelines.dataloaders import inference_dls, list_images
from busfast.pipelines.finish import finish, stack
from busfast.pipelines.image import ImagePipeline
from busfast.progress import ahead, progress


def list_inputs(inputs: str | Path) -> tuple[list[str], list[Path]]:
    """Returns the images of an image file, a folder, or a CSV file with a column `image`: as named, and as paths.

    Of a data folder, these are the images of its table. A table's paths are relative to its folder, or as sources.csv
    beside it says. The files need not exist: `predict_images` says so in their rows.

    Raises:
        UserError: nothing there, no image in the folder, a table that cannot be read or has no column `image`.
    """
    path = Path(inputs)
    if (path / "table.csv").is_file():  # a data folder: its images, not its masks
        path /= "table.csv"
    if path.suffix.lower() != ".csv":
        names = list_images(path)
        return names, [Path(name) for name in names]
    header, rows, _ = read_rows(path, ("image",))
    names = [cells[header.index("image")] for _, cells in rows]
    places = read_places(path.parent)
    paths = [locate(path.parent, name, places) for name in names]
    return names, [file if file.exists() or "\\" not in name else locate(path.parent, name.replace("\\", "/"), places)
                   for name, file in zip(names, paths, strict=True)]


def load_model(path: Path, arch: str, image: ImagePipeline, classes: tuple[str, ...], *, bs: int = 32,
               device: str = "auto", threads: int = 0) -> Learner:
    """Makes a Learner for inference from saved weights (tensors only; no code of the file is run).

    Raises:
        UserError: the weights are missing, broken, or of another model.
    """
    keep_freed_memory()
    model, _ = make_model(arch, str(path), len(classes), 0.0)
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
    image = ImagePipeline(config.size, config.resize, config.channels,
                          mean=tuple(record["weights"]["mean"]), std=tuple(record["weights"]["std"]))
    given = {"device": config.device, "threads": config.threads} | flags
    return load_model(path, config.arch, image, config.classes, **given)


def predict_logits(learn: Learner, paths: list[str | Path]) -> tuple[np.ndarray, list[str]]:
    """Predicts images through the very pixels of validation; each file is read once, while the model is at work.

    Args:
        learn: as `load_model` or `make_learner` gives it.
        paths: image files.

    Returns:
        Logits, float32 (n, classes), in order, and why each image could not be read ("" where it was; NaN if not).
    """
    dl = learn.dls.valid
    model = fold_batchnorm(learn.model.eval(), dl.image.size)
    print(f"predicting {len(paths)} images on {learn.dls.device}", flush=True)
    reasons, logits = [""] * len(paths), np.full((len(paths), len(learn.dls.vocab)), np.nan, np.float32)
    with torch.inference_mode():
        for rows, pixels in _batches(paths, dl.image, dl.bs, dl.threads, reasons):
            found = model(finish(pixels.to(learn.dls.device, non_blocking=True), dl.image))
            logits[rows] = found.float().cpu().numpy()
    return logits, reasons


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


def _batches(paths: list, image: ImagePipeline, bs: int, threads: int,
             reasons: list[str]) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Yields the numbers and the fitted pixels of readable images, `bs` of them at once; fills `reasons` in."""
    def read(path):
        try:
            return fit_pixels(path, *image.fit)
        except Exception as error:
            return why_unreadable(error)

    rows, arrays = [], []
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        found = ahead(pool, read, paths, 3 * bs)
        for row, result in enumerate(progress(found, "predicting images", len(paths))):
            if isinstance(result, str):
                reasons[row] = result
            else:
                rows.append(row)
                arrays.append(result)
            if len(rows) == bs:
                yield rows, stack(arrays)
                rows, arrays = [], []
    if rows:
        yield rows, stack(arrays)
