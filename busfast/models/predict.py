"""A trained model and new images -> one row an image, unreadable ones included."""

import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from fastai.callback import progress as _progress  # noqa: F401  (gives the Learner its bar, and no_bar)
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat

from busfast.data.check import find_unreadable
from busfast.data.places import locate, read_places
from busfast.data.rows import read_rows
from busfast.models.memory import keep_freed_memory
from busfast.models.weights import make_model
from busfast.pipelines.dataloaders import inference_dls, list_images
from busfast.pipelines.image import ImagePipeline


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


def predict_images(learn: Learner, paths: list[str | Path]) -> pd.DataFrame:
    """Predicts images through the very pixels of validation.

    Args:
        learn: as `load_model` or `make_learner` gives it.
        paths: image files.

    Returns:
        A row an input, in order: image, status ("ok" or "unreadable"), predicted (the most probable class),
        p_<class> for each (they sum to 1), reason (why it could not be read). Empty cells where unreadable.
    """
    classes = list(learn.dls.vocab)
    reasons = find_unreadable(paths, learn.dls.valid.threads or None)
    readable = [index for index, reason in enumerate(reasons) if not reason]
    table = pd.DataFrame({"image": [str(path) for path in paths], "status": "unreadable", "predicted": ""})
    for name in classes:
        table[f"p_{name}"] = np.nan
    table["reason"] = reasons
    if readable:
        dl = learn.dls.test_dl([paths[index] for index in readable])
        print(f"predicting {len(readable)} images on {learn.dls.device}", flush=True)
        with nullcontext() if sys.stdout.isatty() else learn.no_bar():
            probabilities, _ = learn.get_preds(dl=dl)
        table.loc[readable, "status"] = "ok"
        table.loc[readable, "predicted"] = [classes[index] for index in probabilities.argmax(dim=1)]
        table.loc[readable, [f"p_{name}" for name in classes]] = probabilities.numpy()
    return table
