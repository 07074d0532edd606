"""A model and images -> one row an image, unreadable ones included, with a few batches in memory."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from fastai.learner import Learner

from busfast.data.images import why_unreadable
from busfast.data.labels import name_predicted
from busfast.inference.engines import Engine, Outputs, TorchEngine
from busfast.processes import cores
from busfast.progress import map_ahead, progress


def stream(engine: Engine, paths: Sequence[str | Path], *, bs: int, threads: int = 0,
           jobs: int = 1) -> Iterator[tuple[list[str], Outputs | None]]:
    """Predicts images batch by batch, with a few batches in memory, and `jobs` batches inferred side by side.
    Yields, in order, why each image of a batch could not be read ("": it was read), and the outputs for the others, or
    None. 0 `threads`: one per core."""
    def read(path):
        try:
            return engine.read(path)
        except Exception as error:
            return why_unreadable(error)

    def infer(batch):  # of images, and reasons in place of unreadable ones
        images = [image for image in batch if not isinstance(image, str)]
        reasons = [image if isinstance(image, str) else "" for image in batch]
        return reasons, engine.infer(images) if images else None

    threads = threads or cores()
    limits = {"initializer": torch.set_num_threads, "initargs": (max(1, threads // jobs),)} if jobs > 1 else {}
    with ThreadPoolExecutor(threads) as readers, ThreadPoolExecutor(jobs, **limits) as workers:
        images = progress(map_ahead(readers, read, paths, (jobs + 2) * bs), "predicting images", len(paths))
        yield from map_ahead(workers, infer, iter(lambda: list(islice(images, bs)), []), jobs + 1)


def predict_logits(learn: Learner, paths: Sequence[str | Path]) -> tuple[np.ndarray, list[str]]:
    """Predicts images with the pixels of validation; each file is read once, while the model computes.
    Returns logits, float32 (n, classes), NaN for unreadable images; and why each is unreadable ("": it was read)."""
    dl = learn.dls.valid
    engine = TorchEngine(learn.model, dl.image, learn.dls.device)
    return stream_logits(engine, paths, len(learn.dls.vocab), bs=dl.bs, threads=dl.threads)


def stream_logits(engine: TorchEngine, paths: Sequence[str | Path], classes: int, *, bs: int,
                  threads: int = 0) -> tuple[np.ndarray, list[str]]:
    """Predicts images with an engine; see `stream` and `predict_logits`."""
    print(f"predicting {len(paths)} images on {engine.device}")
    reasons, logits = [], np.full((len(paths), classes), np.nan, np.float32)
    for batch_reasons, outputs in stream(engine, paths, bs=bs, threads=threads):
        rows = len(reasons) + np.flatnonzero([not reason for reason in batch_reasons])
        if outputs is not None:
            logits[rows] = outputs.logits
        reasons += batch_reasons
    return logits, reasons


def predict_images(learn: Learner, paths: list[str | Path]) -> pd.DataFrame:
    """Predicts images; see `predict_logits`.

    Returns:
        A row for each input, in order: image, status ("ok" or "unreadable"), predicted (the most probable class, or all
        of several labels that are more probable than not), p_<class> for each class (they sum to 1 unless there may be
        several), reason (why it could not be read). Cells without a value are empty.
    """
    classes = list(learn.dls.vocab)
    logits, reasons = predict_logits(learn, paths)
    names = name_predicted(classes, logits, learn.dls.label_delim, 0.0)
    table = pd.DataFrame({"image": [str(path) for path in paths],
                          "status": ["unreadable" if reason else "ok" for reason in reasons],
                          "predicted": ["" if reason else name for reason, name in zip(reasons, names, strict=True)]})
    values = torch.from_numpy(logits)
    probabilities = (values.sigmoid() if learn.dls.multi_label else values.softmax(dim=1)).numpy()
    table[[f"p_{name}" for name in classes]] = probabilities
    table["reason"] = reasons
    return table
