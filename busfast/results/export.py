"""A trained run -> bundle, learner and ONNX, which are kept only if they say what the training process said."""

import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from fastai.learner import Learner
from scipy.special import softmax

from busfast.data.paths import image_paths
from busfast.data.split_file import find_images, read_split
from busfast.data.table import find_table
from busfast.errors import UserError, choose
from busfast.files import move_file
from busfast.inference.bundle import atomic_folder, describe_input, read_bundle, write_bundle
from busfast.inference.engines import LearnerEngine, OnnxEngine, TorchEngine, load_pickle, supports_features
from busfast.inference.fastai_export import export_learner
from busfast.inference.onnx_export import export_onnx
from busfast.inference.outlier import QUANTILE, Outlier, fit_outlier
from busfast.inference.predictor import Predictor, make_predictor
from busfast.inference.run_model import load_run_model, run_image
from busfast.inference.stream import stream
from busfast.pipelines.config import Config
from busfast.pipelines.dataloaders import make_dls
from busfast.results.evaluation import TARGET, Evaluation, summarise
from busfast.results.predictions import FILE, read_history
from busfast.text import counted
from busfast.training.finish import VALID_FILE, read_valid
from busfast.training.runs import Run, file_sha256
from busfast.yamlfile import read_yaml

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
            with atomic_folder(run.models / "bundle") as fresh:
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
    return make_predictor(TorchEngine(learn.model, learn.dls.valid.image, learn.dls.device), facts)


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
    elif supports_features(model, image.size):
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
    find_images(run.name, parts)
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


# A threshold is the very probability of one validation image, which another engine, rounding otherwise, shall not flip.
ROUNDING = 1e-5
RECORDED = ("pipeline", "split", "fold", "holdout", "leaks", "phantom", "counts", "weights", "created", "versions",
            "table_sha256")


def describe_run(run: Run, *, target: float = TARGET, positive: str | None = None) -> dict[str, Any]:
    """Returns the content of a run's bundle.json, but for what `write_bundle` adds.

    Args:
        run: a trained run. Where `evaluate` has not scored these very weights, temperature and metrics are None, there
            are no operating points, and that is said.
        target, positive: as those of `summarise`; the operating point of `target` comes first.

    Raises:
        UserError: as `summarise` and `Run.read_config`; the run has no best weights.
    """
    config, record = run.read_config()
    weights = file_sha256(run.best_weights())
    facts: dict[str, Any] = {"classes": list(config.classes), "architecture": config.arch,
                             "input": describe_input(run_image(config, record)), "temperature": None,
                             "operating_points": [], "metrics": None, "outlier": None,
                             "run": _run(run, config, record) | {"best_pth_sha256": weights}}
    history = read_history(run)
    if record.get("members"):
        facts |= {"members": len(record["members"])}
    if record.get("unscored"):
        print(f"{run.name}: {record['unscored']}, so there are no calibrated probabilities, thresholds and metrics",
              flush=True)
        return facts
    if not (run.results / FILE).is_file() or not history or history[-1]["weights_sha256"] != weights:
        print(f"{run.name}: these weights were not scored, so there are no calibrated probabilities, thresholds and "
              f"metrics (python -m busfast evaluate --run={run.name})", flush=True)
        return facts
    found = summarise(run, target=target, positive=positive)
    rows = found.metrics[(found.metrics["part"] == "test") & (found.metrics["by"] == "all")]
    metrics = {"part": "test", "images": len(found.test), "groups": found.test["group"].nunique(),
               "scores": {row["score"]: _interval(row) for _, row in rows.iterrows()}}
    return facts | {"temperature": found.temperature, "operating_points": _points(found, target), "metrics": metrics}


def _run(run: Run, config: Config, record: dict[str, Any]) -> dict[str, Any]:
    """What it was trained on and how; a path of this machine is nobody's business."""
    plain = asdict(replace(config, data=Path(config.data).name, cache="auto"))
    if config.weights not in ("auto", "none"):
        plain["weights"] = Path(config.weights).name
        record = record | {"weights": record["weights"] | {"text": f"file {plain['weights']}"}}
    record = record | {"split": Path(str(record.get("split"))).name}  # of lists it is their path
    summary = run.results / "summary.yaml"
    members = {"members": record["members"]} if record.get("members") else {}
    return {"name": run.name, **{key: record.get(key) for key in RECORDED}, **members, "config": plain,
            "split_sha256": file_sha256(run.results / "split.csv"),
            "summary": read_yaml(summary) if summary.is_file() else None}


def _points(found: Evaluation, target: float) -> list[dict[str, Any]]:
    test = found.points[found.points["part"] == "test"]
    points = [{"class": found.positive, "target": float(goal), "threshold": float(threshold) * (1 - ROUNDING),
               "test": {row["score"]: _interval(row) for _, row in rows.iterrows()}}
              for (goal, threshold), rows in test.groupby(["target", "threshold"])]
    return sorted(points, key=lambda point: point["target"] != target)


def _interval(row) -> list[float | None]:
    """Estimate, low and high; None where there is none, for JSON has no NaN."""
    return [None if math.isnan(row[name]) else round(float(row[name]), 6) for name in ("estimate", "low", "high")]
