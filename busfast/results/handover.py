"""A trained run -> bundle, learner and ONNX, which are kept only if they say what the training process said."""

import tempfile
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from fastai.learner import Learner
from scipy.special import softmax

from busfast.data.places import image_paths
from busfast.data.split_file import read_split
from busfast.data.table import find_table
from busfast.errors import UserError, choose
from busfast.files import move_file
from busfast.models.bundle import new_folder, read_bundle, write_bundle
from busfast.models.engines import LearnerEngine, OnnxEngine, TorchEngine, gives_features, load_pickle
from busfast.models.export import export_learner
from busfast.models.onnx import export_onnx
from busfast.models.outlier import QUANTILE, Outlier, fit_outlier
from busfast.models.predict import load_run_model, stream
from busfast.models.predictor import Predictor, use_facts
from busfast.pipelines.dataloaders import make_dls
from busfast.results.ending import VALID_FILE, read_valid
from busfast.results.facts import describe_run
from busfast.results.predictions import find_images
from busfast.results.runs import Run
from busfast.results.summary import TARGET
from busfast.words import counted

FORMATS = ("bundle", "learner", "onnx")
CHECKED = 32  # images that all forms are compared on
TOLERANCE = 1e-4  # of a probability
MOST = 2000  # images of each part that the outlier score is fitted to


def export_run(run: Run, formats: Sequence[str], *, target: float = TARGET, positive: str | None = None,
               device: str = "cpu", threads: int = 0) -> list[Path]:
    """Exports a run's best weights and compares every form with the training process.

    Args:
        run: a trained run.
        formats: of `FORMATS`. onnx is written into the bundle.
        target, positive: as those of `describe_run`.
        device, threads: what reads and infers the images of the outlier score.

    Returns:
        What was written, in models/RUN: bundle/ and learner.pkl.

    Raises:
        UserError: no weights; images that are gone; a package is missing; a form disagrees (nothing is written).
    """
    formats = [choose("format", name, FORMATS) for name in formats]
    config, record = run.read_config()
    learn = load_run_model(run.best_weights(), config, record, device=device, threads=threads)
    facts = describe_run(run, target=target, positive=positive)
    parts = _read_parts(run, config.data)
    valid = parts[parts["part"] == "valid"]
    checked = _choose(valid if len(valid) else parts, config.classes)
    paths = image_paths(checked)
    forms = {"training process": _trained(run, learn, checked, paths)}
    written = []
    with tempfile.TemporaryDirectory(prefix=".export-", dir=run.models) as kept:
        learner = Path(kept) / "learner.pkl"
        if "learner" in formats:
            export_learner(learn, learner)
            forms["learner"] = _probabilities(LearnerEngine(load_pickle(learner)), paths)
        if {"bundle", "onnx"} & set(formats):
            had_onnx = (run.models / "bundle" / "model.onnx").exists()
            with new_folder(run.models / "bundle") as fresh:
                forms |= _bundle(fresh, learn, facts, parts, paths, "onnx" in formats)
                _compare(run, forms, len(paths), exact=record.get("device") != "cuda")
            written.append(run.models / "bundle")
            if had_onnx and "onnx" not in formats:
                print("  the bundle that was replaced had a model.onnx, this one has none (--format=onnx)")
        else:
            _compare(run, forms, len(paths), exact=record.get("device") != "cuda")
        if "learner" in formats:
            move_file(learner, run.models / "learner.pkl")
            written.append(run.models / "learner.pkl")
    return written


def run_predictor(run: Run, *, target: float | None = None, **flags) -> Predictor:
    """Makes a Predictor of a run as it is, without an export (and without an outlier score).

    Args:
        run: a trained run.
        target: decide by the threshold for this sensitivity; None: for .9.
        flags: bs, device and threads of `load_model`.
    """
    learn = load_run_model(run.best_weights(), *run.read_config(), **flags)
    facts = describe_run(run, target=TARGET if target is None else target)
    return use_facts(TorchEngine(learn.model, learn.dls.valid.image, learn.dls.device), facts)


def run_learner(run: Run, **flags) -> Learner:
    """Makes the Learner of a run: its best weights and the train and valid parts of its split, for fastai to look at.

    Args:
        run: a trained run.
        flags: bs, device and threads of `load_model`.

    Returns:
        A Learner; `ClassificationInterpretation.from_learner` takes its validation part, never the test part.

    Raises:
        UserError: no weights; images that are gone.
    """
    config, record = run.read_config()
    learn = load_run_model(run.best_weights(), config, record, **flags)
    valid = learn.dls.valid
    learn.dls = make_dls(_read_parts(run, config.data), valid.image, classes=config.classes, bs=valid.bs,
                         device=learn.dls.device.type, threads=valid.threads, cache=config.cache)
    return learn


def _bundle(folder: Path, learn: Learner, facts: dict, parts: pd.DataFrame, paths: list[Path],
            onnx: bool) -> dict[str, np.ndarray]:
    """Writes a bundle; returns what it says of the images, read back from its files alone."""
    image, model = learn.dls.valid.image, learn.model.eval()
    outlier = None
    if not (parts["part"] == "valid").any():
        print("each image may have trained a member, so that none tells what is usual: no outlier score", flush=True)
    elif gives_features(model, image.size):
        outlier = _fit_outlier(TorchEngine(model, image, learn.dls.device, features=True), parts, learn.dls.valid)
    else:
        print(f"{facts['architecture']} does not show its features: no outlier score", flush=True)
    about = {"fitted_on": "train", "threshold_on": "valid", "quantile": QUANTILE}
    facts = facts | {"outlier": about if outlier else None}
    content = None
    if onnx:
        print("exporting to ONNX", flush=True)
        content = export_onnx(model.cpu(), facts, features=outlier is not None)
    write_bundle(folder, model, facts, outlier, content)
    back = read_bundle(folder)
    forms = {"bundle": _probabilities(TorchEngine(back.model(), back.image, learn.dls.device), paths)}
    if onnx:
        forms["onnx"] = _probabilities(OnnxEngine(back.onnx(), back.image), paths)
    return forms


def _read_parts(run: Run, data: str) -> pd.DataFrame:
    """The run's split, if its images are there."""
    parts = read_split(run.results / "split.csv", find_table(data).parent)
    parts = parts[parts["part"].isin(("train", "valid"))].reset_index(drop=True)
    find_images(run, parts)
    return parts


def _choose(valid: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Takes the first images of each class in turn."""
    turn = valid.assign(turn=valid.groupby("label").cumcount()).sort_values("turn", kind="stable")
    chosen = turn.head(CHECKED).drop(columns="turn")
    chosen.attrs = valid.attrs
    return chosen


def _trained(run: Run, learn: Learner, checked: pd.DataFrame, paths: list[Path]) -> np.ndarray:
    """What training itself said of the images in the epoch whose weights these are."""
    if not (run.results / VALID_FILE).is_file():
        print(f"{run.name} has no {VALID_FILE} (an older busfast trained it, or it joins several splits): its "
              "Learner is compared", flush=True)
        return _probabilities(LearnerEngine(learn), paths)
    return read_valid(run, tuple(learn.dls.vocab), checked["image"])


def _probabilities(engine, paths: list[Path]) -> np.ndarray:
    found = [(reasons, one) for reasons, one in stream(engine, paths, bs=CHECKED)]
    for why, path in zip((reason for reasons, _ in found for reason in reasons), paths, strict=True):
        if why:
            raise UserError(f"{path} cannot be read: {why}. Bring it back.")
    return softmax(np.concatenate([one.logits for _, one in found]).astype(float), axis=1)


def _compare(run: Run, forms: dict[str, np.ndarray], count: int, exact: bool) -> None:
    """Prints how far each two forms are apart; refuses where that is too far."""
    print(f"{run.name}: largest difference of a probability, {counted(count, 'image')} (at most "
          f"{TOLERANCE:g} is allowed)")
    worst = 0.0
    for one, other in combinations(forms, 2):
        apart = float(np.abs(forms[one] - forms[other]).max())
        print(f"  {one + ' - ' + other:34} {apart:.1e}", flush=True)
        if exact or "training process" not in (one, other):  # on CUDA, training has half precision
            worst = max(worst, apart)
    if not worst <= TOLERANCE:
        raise UserError(f"The exported forms of {run.name} differ by {worst:.1e}, more than {TOLERANCE:g}: nothing was "
                        "written. Were images, weights or packages changed since it was trained?")


def _fit_outlier(engine: TorchEngine, parts: pd.DataFrame, dl) -> Outlier:
    features = {}
    for part in ("train", "valid"):
        of = parts[parts["part"] == part]
        of = of.iloc[np.linspace(0, len(of) - 1, min(MOST, len(of))).astype(int)]  # evenly over the table
        of.attrs = parts.attrs
        found = [one.features for _, one in stream(engine, image_paths(of), bs=dl.bs, threads=dl.threads) if one]
        features[part] = np.concatenate(found)
    return fit_outlier(features["train"], features["valid"])
