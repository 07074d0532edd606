"""A trained run -> bundle, learner and ONNX, which are kept only if they predict as the training process did."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from fastai.learner import Learner

from busfast.data.open_data import find_data
from busfast.data.split import Split
from busfast.data.split_file import find_images, read_split
from busfast.errors import UserError, choose
from busfast.files import move_file
from busfast.inference.bundle import atomic_folder, read_bundle, write_bundle
from busfast.inference.engines import (
    STAGES,
    LearnerEngine,
    OnnxEngine,
    TorchEngine,
    load_pickle,
    supports_features,
)
from busfast.inference.fastai_export import export_learner
from busfast.inference.find_model import FORMATS
from busfast.inference.onnx_export import export_onnx, require_onnx
from busfast.inference.outlier import QUANTILE, Outlier, coarsen, fit_outlier, is_colorful
from busfast.inference.run_model import load_run_model
from busfast.inference.stream import stream
from busfast.pipelines.dataloaders import make_dls
from busfast.pipelines.prefetch import name_unreadable
from busfast.results.calibration import to_probabilities
from busfast.results.evaluation import TARGET
from busfast.results.facts import describe_run
from busfast.text import counted
from busfast.training.finish import VALID_FILE, read_valid
from busfast.training.runs import Run

CHECKED = 32  # images that all forms are compared on
TOLERANCE = 1e-4  # of a probability
MAX_FITTED = 2000  # images of each part that the outlier score is fitted to
TRAINED = "training process"


def export_run(run: Run, formats: Sequence[str], *, target: float = TARGET, positive: str | None = None,
               device: str = "cpu", threads: int = 0) -> list[Path]:
    """Exports a run's best weights and compares every form with the training process.

    Args:
        run: a trained run.
        formats: of `FORMATS`. onnx is written into the bundle.
        target, positive: see `describe_run`.
        device, threads: for the images that the outlier score is fitted to.

    Returns:
        What was written, in models/RUN: bundle/ and learner.pkl.

    Raises:
        UserError: weights, images or a package are missing; a form disagrees (nothing is written).
    """
    formats = [choose("format", name, FORMATS) for name in formats]
    if "onnx" in formats:
        require_onnx()
    config, record = run.read_config()
    learn = load_run_model(run.best_weights(), config, record, device=device, threads=threads)
    facts = describe_run(run, target=target, positive=positive)
    parts = _read_parts(run, config.data)
    valid = parts.only("valid")
    checked = _choose_checked(valid if len(valid) else parts)
    paths = checked.image_paths()
    forms = {TRAINED: _trained_probabilities(run, learn, checked, paths)}
    exact = record.get("device") != "cuda"
    bundle, learner, written = run.models / "bundle", run.models / "learner.pkl", []
    with tempfile.TemporaryDirectory(prefix=".export-", dir=run.models) as temporary:
        new_learner = Path(temporary) / learner.name
        if "learner" in formats:
            export_learner(learn, new_learner)
            forms["learner"] = _probabilities(LearnerEngine(load_pickle(new_learner)), paths, config.label_delim)
        if {"bundle", "onnx"} & set(formats):
            had_onnx = (bundle / "model.onnx").exists()
            with atomic_folder(bundle) as folder:
                forms |= _write_bundle(folder, learn, facts, parts, paths, "onnx" in formats)
                _compare(run, forms, len(paths), exact)
            written.append(bundle)
            if had_onnx and "onnx" not in formats:
                print("  the bundle that was replaced had a model.onnx, this one has none (--format=onnx)")
        else:
            _compare(run, forms, len(paths), exact)
        if "learner" in formats:
            move_file(new_learner, learner)
            written.append(learner)
    return written


def run_learner(run: Run, **flags) -> Learner:
    """Makes a Learner of a run's best weights and the train and valid parts of its split, for use with fastai.

    Args:
        run: a trained run.
        flags: bs, device and threads of `load_model`.

    Returns:
        A Learner; `ClassificationInterpretation.from_learner` takes its validation part, never the test part.

    Raises:
        UserError: weights or images are missing.
    """
    config, record = run.read_config()
    learn = load_run_model(run.best_weights(), config, record, **flags)
    valid = learn.dls.valid
    learn.dls = make_dls(_read_parts(run, config.data), valid.image, classes=config.classes,
                         label_delim=config.label_delim, bs=valid.bs, device=learn.dls.device.type,
                         threads=valid.threads, cache=config.cache)
    return learn


def _write_bundle(folder: Path, learn: Learner, facts: dict, parts: Split, paths: list[Path],
                  onnx: bool) -> dict[str, np.ndarray]:
    """Writes a bundle; returns the probabilities of some images by each of its models, as read back from its files."""
    image, model = learn.dls.valid.image, learn.model.eval()
    outlier, engine = None, TorchEngine(model, image, learn.dls.device, features=STAGES)
    if not len(parts.only("valid")):
        print("each image may have trained a member, so that none tells what is usual: no outlier score")
    elif supports_features(model, image.sides):
        outlier = _fit_outlier(engine, parts, learn.dls.valid)
    else:
        print(f"no outlier score: {facts['architecture']} does not expose its features")
    facts = facts | {"outlier": {"fitted_on": "train", "threshold_on": "valid", "quantile": QUANTILE,
                                 "channels": "gray" if engine.gray else "color", "stages": STAGES} if outlier else None}
    content = None
    if onnx:
        print("exporting to ONNX")
        content = export_onnx(model.cpu(), facts, features=outlier is not None)
    write_bundle(folder, model, facts, outlier, content)
    bundle = read_bundle(folder)
    delim = learn.dls.label_delim
    forms = {"bundle": _probabilities(TorchEngine(bundle.model(), bundle.image, learn.dls.device), paths, delim)}
    if onnx:
        forms["onnx"] = _probabilities(OnnxEngine(bundle.onnx(), bundle.image), paths, delim, bs=5)  # not as exported
    return forms


def _read_parts(run: Run, data: str) -> Split:
    """Returns the train and valid parts of a run's split, whose images are all there."""
    parts = read_split(run.results / "split.csv", find_data(data).parent).only("train", "valid")
    find_images(run.name, parts)
    return parts


def _choose_checked(split: Split) -> Split:
    """Returns the first images of each class, in turn."""
    turn = split.rows.groupby("label").cumcount().sort_values(kind="stable").index
    return replace(split, rows=split.rows.loc[turn[:CHECKED]])


def _trained_probabilities(run: Run, learn: Learner, checked: Split, paths: list[Path]) -> np.ndarray:
    """Returns the probabilities by the training process itself, in the epoch whose weights these are."""
    if not (run.results / VALID_FILE).is_file():
        print(f"{run.name} has no {VALID_FILE} (made by an older busfast, or an ensemble of several splits): forms are "
              "compared with its Learner")
        return _probabilities(LearnerEngine(learn), paths, learn.dls.label_delim)
    return read_valid(run, tuple(learn.dls.vocab), checked.rows["image"])


def _probabilities(engine, paths: list[Path], label_delim: str, bs: int = CHECKED) -> np.ndarray:
    logits, reasons = [], []
    for batch_reasons, output in stream(engine, paths, bs=bs):
        reasons += batch_reasons
        logits.append(output and output.logits)
    for reason, path in zip(reasons, paths, strict=True):
        if reason:
            raise UserError(f"{path} cannot be read: {reason}. Restore it.")
    return to_probabilities(np.concatenate(logits), label_delim)


def _compare(run: Run, forms: dict[str, np.ndarray], count: int, exact: bool) -> None:
    """Prints the largest difference between each two forms; raises if it is too large."""
    print(f"{run.name}: largest difference between probabilities, on {counted(count, 'image')} (at most {TOLERANCE:g} "
          "is allowed)")
    largest = 0.0
    for first, second in combinations(forms, 2):
        difference = float(np.abs(forms[first] - forms[second]).max())
        print(f"  {first + ' - ' + second:34} {difference:.1e}")
        if exact or TRAINED not in (first, second):  # on CUDA, training has half precision
            largest = max(largest, difference)
    if not largest <= TOLERANCE:
        raise UserError(f"The exported forms of {run.name} differ by {largest:.1e}, more than {TOLERANCE:g}: nothing "
                        "was written. Were images, weights or packages changed since it was trained?")


def _fit_outlier(engine: TorchEngine, parts: Split, dl) -> Outlier:
    """Fits the outlier score to images and to coarser copies; the engine drops color from now on, unless the training
    images have more than a tint."""
    coarse: Any = SimpleNamespace(read=lambda path: coarsen(engine.read(path)), infer=engine.infer)
    train, valid = (parts.only(part).image_paths() for part in ("train", "valid"))
    engine.gray = not is_colorful(list(map(name_unreadable(engine.read), _spaced(train, CHECKED))))
    return fit_outlier(*(np.concatenate([
        output.features for one, most in ((engine, MAX_FITTED), (coarse, MAX_FITTED // 2))
        for _, output in stream(one, _spaced(paths, most), bs=dl.bs, threads=dl.threads) if output])
        for paths in (train, valid)))


def _spaced(paths: list[Path], most: int) -> list[Path]:
    """Returns at most so many of some paths, evenly spaced."""
    return [paths[row] for row in np.linspace(0, len(paths) - 1, min(most, len(paths))).astype(int)]
