"""A trained model, wherever it comes from -> a row of a table for each image."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import softmax

from busfast.errors import UserError, choose
from busfast.inference.bundle import Bundle, read_bundle
from busfast.inference.engines import Engine, Found, LearnerEngine, OnnxEngine, TorchEngine, load_pickle
from busfast.inference.outlier import Outlier
from busfast.inference.resumable_csv import ResumableCsv
from busfast.inference.stream import stream
from busfast.models.memory import keep_freed_memory
from busfast.pipelines.backends import choose_device

ENGINES = ("torch", "onnx")
NO_ANSWER = "the model gives no finite probabilities for it"
PICKLES = (".pkl", ".pickle", ".pth", ".pt", ".ckpt")


@dataclass(frozen=True)
class Predictor:
    """A model and what is needed to read its answers.

    Attributes:
        engine: one of `busfast.inference.engines`.
        classes: in the model's order.
        temperature: of the probabilities; None: they are not calibrated.
        points: operating points, as in bundle.json; the first one decides.
        outlier: tells images that are unlike those of the training part; None: nothing does.
        identity: plain values that change when the answers may.
    """

    engine: Any
    classes: tuple[str, ...]
    temperature: float | None = None
    points: Sequence[dict[str, Any]] = ()
    outlier: Outlier | None = None
    identity: Any = None

    @property
    def columns(self) -> list[str]:
        """The columns of the table; see `rows`."""
        probabilities = [f"p_{name}" for name in self.classes]
        return ["image", "status", "predicted", *probabilities, "decision", "outlier", "reason"]

    def rows(self, names: Sequence[str], paths: Sequence[str | Path], **how) -> Iterator[list[list[str]]]:
        """Yields the rows of the table, some at a time, in order.

        Args:
            names: how each image is called in the table.
            paths: where it is.
            how: bs, threads and jobs of `stream`.

        Yields:
            Of each image: image, status ("ok" or "unreadable"), predicted (the most probable class), p_CLASS for each
            class (calibrated if there is a temperature), decision ("CLASS" if its probability reaches the threshold of
            the operating point, else "not CLASS"), outlier (distance from the training images; above 1: unlike them),
            reason (why it could not be read, or not be answered). Cells of what is not known are empty.
        """
        names = iter(names)
        for reasons, found in stream(self.engine, paths, **how):
            answers = iter(self.answers(found, reasons.count("")) if found is not None else ())
            yield [self._row(next(names), reason, answers) for reason in reasons]

    def table(self, paths: Sequence[str | Path], *, bs: int = 32, **how) -> pd.DataFrame:
        """Returns the rows of some images as one table; see `rows`. Cells are text, as in the file of `write_rows`."""
        rows = self.rows([str(path) for path in paths], paths, bs=bs, **how)
        return pd.DataFrame([row for some in rows for row in some], columns=self.columns)

    def _row(self, name: str, reason: str, answers: Iterator[list[str]]) -> list[str]:
        answer = None if reason else next(answers)
        if answer is None:
            return [name, "unreadable", *[""] * (len(self.columns) - 3), reason or NO_ANSWER]
        return [name, "ok", *answer, ""]

    def answers(self, found: Found, count: int) -> Iterator[list[str] | None]:
        """Yields predicted, p_CLASS for each class, decision and outlier of what an engine has found.

        None: what it has found are no finite numbers, which must not look like an answer.

        Args:
            found: of the engine.
            count: number of images.

        Raises:
            UserError: it is of another shape than `count` images, the classes and the outlier score.
        """
        if found.logits.shape != (count, len(self.classes)):
            raise UserError(f"The model gives numbers of the shape {found.logits.shape} for {count} images of "
                            f"{len(self.classes)} classes. Export it anew.")
        probabilities = softmax(found.logits.astype(float) / (self.temperature or 1), axis=1)
        apart = [""] * len(probabilities)
        if self.outlier is not None and found.features is not None:
            if found.features.shape != (count, len(self.outlier.mean)):
                raise UserError(f"The model gives features of the shape {found.features.shape}, but the outlier score "
                                f"is of {len(self.outlier.mean)}. Export it anew.")
            apart = [f"{value:.3f}" for value in self.outlier.score(found.features)]
        for row, value in zip(probabilities, apart, strict=True):
            yield [self.classes[row.argmax()], *(f"{one:.6f}" for one in row), self._decide(row),
                   value] if np.isfinite(row).all() else None

    def _decide(self, probabilities: np.ndarray) -> str:
        if not self.points:
            return ""
        name = self.points[0]["class"]
        reached = probabilities[self.classes.index(name)] >= self.points[0]["threshold"]
        return name if reached else f"not {name}"


def write_rows(predictor: Predictor, names: Sequence[str], paths: Sequence[str | Path], out: Path, *,
               resume: bool = False, **how) -> tuple[int, int]:
    """Writes the table of images, row by row; what is interrupted can be resumed.

    Args:
        predictor, names, paths, how: see `Predictor.rows`.
        out: the CSV file; see `busfast.inference.resumable_csv`.
        resume: go on where an interrupted call ended.

    Returns:
        How many rows were there already, and how many of those that are new are unreadable.

    Raises:
        UserError: it cannot be written, or not be resumed.
    """
    file = ResumableCsv(out, predictor.columns, [predictor.identity, names], resume)
    old, bad = file.rows, 0
    try:
        for rows in predictor.rows(names[old:], paths[old:], **how):
            file.write(rows)
            bad += sum(row[1] != "ok" for row in rows)
    except BaseException as error:
        file.close()
        if not isinstance(error, UserError):
            print(f"{file.rows} rows are in {file.part}; to go on: the same command with --resume (and without "
                  "--overwrite)", flush=True)
        raise
    file.finish()
    return old, bad


def load_predictor(path: str | Path, *, engine: str = "torch", trust: bool = False, target: float | None = None,
                   device: str = "auto", threads: int = 0) -> Predictor:
    """Loads a bundle, or a fastai learner that the user trusts.

    Args:
        path: a bundle's folder, or an exported learner (a pickle).
        engine: of a bundle, one of `ENGINES`.
        trust: run what is in a pickle.
        target: decide by the operating point of this sensitivity; None: by the first one.
        device: "auto", "cuda", "mps" or "cpu", for torch.
        threads: of ONNX Runtime; 0: one a core.

    Raises:
        UserError: as `read_bundle`; a pickle without `trust`; an operating point that is not there; a model that
            cannot be run on its images.
    """
    path = Path(path)
    choose("engine", engine, ENGINES)
    if os.path.isfile(path) and path.suffix.lower() in PICKLES:
        if not trust:
            raise UserError(f"{path} is a pickle: loading it runs whatever code is in it, so it is refused. Use the "
                            "run's bundle (export --format=bundle), or add --trust if you trust who made it.")
        loaded = load_pickle(path)
        return Predictor(LearnerEngine(loaded), tuple(loaded.dls.vocab),
                         identity=hashlib.sha256(path.read_bytes()).hexdigest())
    keep_freed_memory()
    bundle = read_bundle(path)
    predictor = use_facts(_engine(bundle, engine, device, threads), bundle.facts, bundle.outlier, target)
    size = bundle.image.size
    try:  # what a bundle claims may not go together; one black image tells, before any file is read
        list(predictor.answers(predictor.engine.infer([np.zeros((size, size, 3), np.uint8)]), 1))
    except Exception as error:  # models raise nearly anything
        raise UserError(f"The model in {path} cannot be run on images of {size} x {size} pixels: {str(error)[:300]}"
                        ) from error
    return predictor


def use_facts(engine: Engine, facts: dict[str, Any], outlier: Outlier | None = None,
              target: float | None = None) -> Predictor:
    """Makes a Predictor of an engine and the content of a bundle.json; see `load_predictor`."""
    points = facts["operating_points"]
    if target is not None:
        known = [f"{point['target']:g}" for point in points]
        points = [points[known.index(choose("operating point (sensitivity)", f"{target:g}", known))]]
    return Predictor(engine, tuple(facts["classes"]), facts["temperature"], points, outlier,
                     [type(engine).__name__, facts, points])


def _engine(bundle: Bundle, engine: str, device: str, threads: int):
    if engine == "onnx":
        return OnnxEngine(bundle.onnx(), bundle.image, threads)
    return TorchEngine(bundle.model(), bundle.image, choose_device(device), features=bundle.outlier is not None)
