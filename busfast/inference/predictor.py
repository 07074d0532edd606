"""A trained model, whatever its form -> a table with a row for each image."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, softmax
from torch.nn import BCEWithLogitsLoss

from busfast.data.labels import name_predicted
from busfast.errors import Interrupted, UserError
from busfast.inference.bundle import read_bundle
from busfast.inference.engines import (
    OLD_STAGES,
    Engine,
    LearnerEngine,
    OnnxEngine,
    Outputs,
    TorchEngine,
    load_pickle,
)
from busfast.inference.find_model import choose_points, find_model
from busfast.inference.outlier import Outlier
from busfast.inference.resumable_csv import ResumableCsv
from busfast.inference.stream import stream
from busfast.models.memory import keep_freed_memory
from busfast.pipelines.devices import choose_device
from busfast.pipelines.threads import use_threads

NOT_FINITE = "the model gives no finite probabilities for it"


@dataclass(frozen=True)
class Predictor:
    """A model and what turns its outputs into a table."""

    engine: Any  # one of `busfast.inference.engines`
    classes: tuple[str, ...]  # in the model's order
    temperature: float | None = None  # None: the probabilities are not calibrated
    operating_points: Sequence[dict[str, Any]] = ()  # as in bundle.json; the first one decides
    outlier: Outlier | None = None
    label_delim: str = ""  # not "": an image may have several labels
    identity: Any = None  # JSON values that change whenever the predictions may
    phantom: bool = False  # trained on synthetic images
    lowest_auc: float = math.nan  # where the interval of the test part's macro AUC begins; NaN: not known

    @property
    def columns(self) -> list[str]:
        """The columns of the table; see `rows`."""
        probabilities = [f"p_{name}" for name in self.classes]
        return ["image", "status", "predicted", *probabilities, "decision", "outlier", "reason"]

    def rows(self, names: Sequence[str], paths: Sequence[str | Path], **options) -> Iterator[list[list[str]]]:
        """Yields the rows of the table, a batch at a time, in order.

        Args:
            names: of the images in the table.
            paths: of their files.
            options: bs, threads and jobs of `stream`.

        Yields:
            For each image: image, status ("ok" or "unreadable"), predicted (the most probable class; of several labels,
            those that reach their thresholds, by default 0.5), p_CLASS for each class (calibrated if there is a
            temperature), decision ("CLASS" if its probability reaches the threshold of the operating point, else "not
            CLASS"; "" with several labels), outlier (distance from the training images; above 1: unlike them),
            reason (why it has no prediction). Cells without a value are empty.
        """
        names = iter(names)
        for reasons, outputs in stream(self.engine, paths, **options):
            cells = iter(self.format_outputs(outputs, reasons.count("")) if outputs is not None else ())
            yield [self._row(next(names), reason, cells) for reason in reasons]

    def table(self, paths: Sequence[str | Path], *, bs: int = 32, **options) -> pd.DataFrame:
        """Returns the rows of images as a table of text, as `write_predictions` writes it; see `rows`."""
        batches = self.rows([str(path) for path in paths], paths, bs=bs, **options)
        return pd.DataFrame([row for batch in batches for row in batch], columns=self.columns)

    def _row(self, name: str, reason: str, cells: Iterator[list[str] | None]) -> list[str]:
        row = None if reason else next(cells)
        if row is None:
            return [name, "unreadable", *[""] * (len(self.columns) - 3), reason or NOT_FINITE]
        return [name, "ok", *row, ""]

    def format_outputs(self, outputs: Outputs, count: int) -> Iterator[list[str] | None]:
        """Yields, for each of `count` images, the cells predicted, p_CLASS for each class, decision and outlier.

        None: the probabilities are not finite, and must not look like a prediction. Raises UserError if the outputs do
        not have the shape of the images, the classes and the outlier score.
        """
        if outputs.logits.shape != (count, len(self.classes)):
            raise UserError(f"The model gives logits of the shape {outputs.logits.shape} for {count} images of "
                            f"{len(self.classes)} classes. Export it again.")
        logits = outputs.logits.astype(float) / (self.temperature or 1)
        probabilities = expit(logits) if self.label_delim else softmax(logits, axis=1)
        scores = [""] * count
        if self.outlier is not None and outputs.features is not None:
            if outputs.features.shape != (count, len(self.outlier.mean)):
                raise UserError(f"The model gives features of the shape {outputs.features.shape}, but the outlier "
                                f"score needs {len(self.outlier.mean)}. Export it again.")
            scores = [f"{value:.3f}" for value in self.outlier.score(outputs.features)]
        chosen = {point["class"]: point["threshold"] for point in self.operating_points}
        names = name_predicted(self.classes, probabilities, self.label_delim,
                               np.array([chosen.get(name, 0.5) for name in self.classes]))
        for name, row, score in zip(names, probabilities, scores, strict=True):
            yield [name, *(f"{value:.6f}" for value in row), self._decide(row),
                   score] if np.isfinite(row).all() else None

    def _decide(self, probabilities: np.ndarray) -> str:
        if not self.operating_points or self.label_delim:
            return ""
        point = self.operating_points[0]
        reached = probabilities[self.classes.index(point["class"])] >= point["threshold"]
        return point["class"] if reached else f"not {point['class']}"


def write_predictions(predictor: Predictor, names: Sequence[str], paths: Sequence[str | Path], out: Path, *,
                      resume: bool = False, **options) -> tuple[int, int]:
    """Writes the table of images as CSV, batch by batch; an interrupted file can be resumed.

    Arguments as for `Predictor.rows` and `ResumableCsv`, which raises UserError.

    Returns:
        The number of rows written before, and of unreadable images among the new ones.
    """
    file = ResumableCsv(out, predictor.columns, [predictor.identity, names], resume)
    old, unreadable = file.rows, 0
    try:
        for rows in predictor.rows(names[old:], paths[old:], **options):
            file.write(rows)
            unreadable += sum(row[1] != "ok" for row in rows)
    except BaseException as stop:
        file.close()
        if not isinstance(stop, UserError):
            print(f"{file.part} has {file.rows} rows; to continue: the same command with --resume (and without "
                  "--overwrite)")
        if isinstance(stop, KeyboardInterrupt):
            raise Interrupted from stop
        raise
    file.finish()
    return old, unreadable


def load_predictor(path: str | Path, *, engine: str = "torch", trust: bool = False, target: float | None = None,
                   device: str = "auto", threads: int = 0) -> Predictor:
    """Loads a bundle, or a fastai learner that the user trusts.

    Args:
        path: a bundle's folder, or an exported learner (a pickle).
        engine: of a bundle, one of `ENGINES`.
        trust: run the code in a pickle.
        target: sensitivity of the operating point that decides; None: the first one.
        device: "auto", "cuda", "mps" or "cpu", for torch.
        threads: of torch or ONNX Runtime; 0: as `use_threads`.

    Raises:
        UserError: as `find_model` and `read_bundle`; an unknown operating point; a model that cannot run on its
            images.
    """
    path, threads = find_model(path, engine, trust), use_threads(threads)
    if path.is_file():
        learn = load_pickle(path)
        multi_label = isinstance(getattr(learn.loss_func, "func", None), BCEWithLogitsLoss)
        return Predictor(LearnerEngine(learn), tuple(learn.dls.vocab), label_delim=";" if multi_label else "",
                         identity=hashlib.sha256(path.read_bytes()).hexdigest())
    keep_freed_memory()
    bundle = read_bundle(path)
    fitted = bundle.facts["outlier"] if isinstance(bundle.facts["outlier"], dict) else {}
    gray = fitted.get("channels") == "gray"
    if engine == "onnx":
        loaded: Engine = OnnxEngine(bundle.onnx(), bundle.image, threads, gray)
    else:
        loaded = TorchEngine(bundle.model(), bundle.image, choose_device(device),
                             fitted.get("stages", OLD_STAGES) if bundle.outlier is not None else 0, gray)
    predictor = make_predictor(loaded, bundle.facts, bundle.outlier, target)
    height, width = bundle.image.sides
    try:  # the parts of a bundle may not fit each other: one black image shows it before any file is read
        list(predictor.format_outputs(loaded.infer([np.zeros((height, width, 3), np.uint8)]), 1))
    except Exception as error:  # models raise nearly anything
        raise UserError(f"The model in {path} cannot be run on images of {height} x {width} pixels: {str(error)[:300]}"
                        ) from error
    return predictor


def make_predictor(engine: Engine, facts: dict[str, Any], outlier: Outlier | None = None,
                   target: float | None = None) -> Predictor:
    """Makes a Predictor from an engine and the content of a bundle.json; see `load_predictor`."""
    points = choose_points(facts, target)
    return Predictor(engine, tuple(facts["classes"]), facts["temperature"], points, outlier,
                     facts.get("label_delim", ""), [type(engine).__name__, facts, points],
                     isinstance(facts["run"], dict) and bool(facts["run"].get("phantom")),
                     _lowest_auc(facts["metrics"]))


def _lowest_auc(metrics: Any) -> float:
    """Returns where the interval of the test part's macro AUC begins, by the key metrics of bundle.json; NaN if that
    does not say it."""
    match metrics:
        case {"scores": {"macro_auc": [_, (float() | int()) as low, _]}}:
            return low
    return math.nan
