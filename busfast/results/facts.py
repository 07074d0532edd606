"""What a run's bundle.json says: how it was trained, its temperature, operating points and test scores."""

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from busfast.inference.bundle import describe_input
from busfast.inference.engines import TorchEngine
from busfast.inference.predictor import Predictor, make_predictor
from busfast.inference.run_model import load_run_model, run_image
from busfast.pipelines.config import Config
from busfast.results.evaluation import TARGET, Evaluation, summarize
from busfast.results.multi_label import LabelEvaluation, summarize_labels
from busfast.results.predictions import FILE, read_history, read_positive
from busfast.results.run_groups import is_scored, read_test_scores
from busfast.training.runs import Run, file_sha256

DECIMALS = 6  # of the scores in bundle.json
# A threshold is the probability of one validation image: another engine, which rounds differently, must not flip it.
ROUNDING = 1e-5
RECORDED = ("pipeline", "split", "fold", "holdout", "leaks", "phantom", "counts", "weights", "created", "versions",
            "table_sha256")


def run_predictor(run: Run, *, target: float | None = None, **flags) -> Predictor:
    """Makes a Predictor of a run's best weights, without an outlier score; it decides by the threshold of `target`."""
    learn = load_run_model(run.best_weights(), *run.read_config(), **flags)
    facts = describe_run(run, target=TARGET if target is None else target, scores=False)
    return make_predictor(TorchEngine(learn.model, learn.dls.valid.image, learn.dls.device), facts)


def describe_run(run: Run, *, target: float = TARGET, positive: str | None = None,
                 scores: bool = True) -> dict[str, Any]:
    """Returns the content of a run's bundle.json, except for what `write_bundle` adds.

    Args:
        run: a trained run. If `evaluate` has not scored these weights, temperature and metrics are None.
        target, positive: see `summarize`; the operating point of `target` comes first.
        scores: include the scores of the test part; predicting needs only temperature, thresholds and the macro AUC.

    Raises:
        UserError: see `summarize` and `Run.read_config`; the run has no best weights.
    """
    config, record = run.read_config()
    weights = file_sha256(run.best_weights())
    facts: dict[str, Any] = {"classes": list(config.classes), "architecture": config.arch,
                             "input": describe_input(run_image(config, record)), "temperature": None,
                             "operating_points": [], "metrics": None, "outlier": None,
                             "run": _describe_training(run, config, record, positive) | {"best_pth_sha256": weights}}
    if config.tta != "none" or config.label_delim or config.width:
        facts |= {"tta": config.tta, "label_delim": config.label_delim}
    history = read_history(run)
    if record.get("members"):
        facts |= {"members": len(record["members"])}
    without = "so there are no calibrated probabilities, thresholds and metrics"
    if record.get("unscored"):
        print(f"{run.name}: {record['unscored']}, {without}")
        return facts
    if not (run.results / FILE).is_file() or not history or history[-1]["weights_sha256"] != weights:
        print(f"{run.name}: these weights were not scored, {without} (python -m busfast evaluate --run={run.name})")
        return facts
    if not scores and is_scored(run):  # predict says whether the model is shown to be better than chance
        table = read_test_scores(run)
        facts["metrics"] = {"scores": _intervals(table[table.index == "macro_auc"])}
    if config.label_delim:
        return facts | _describe_labels(summarize_labels(run), scores)
    found = summarize(run, target=target, positive=positive, reuse=True)
    facts |= {"temperature": found.temperature, "operating_points": _operating_points(found, target, scores)}
    if scores:
        for text in found.worsened:
            print(f"{run.name}: {text}")
        whole = found.metrics[(found.metrics["part"] == "test") & (found.metrics["by"] == "all")]
        facts["metrics"] = {"part": "test", "images": len(found.test), "groups": found.test["group"].nunique(),
                            "scores": _intervals(whole.set_index("score"))}
    return facts


def _describe_training(run: Run, config: Config, record: dict[str, Any], positive: str | None) -> dict[str, Any]:
    """Returns what a run was trained on and how, without paths of this machine."""
    settings = asdict(replace(config, data=Path(config.data).name, cache="auto",
                              positive=positive or read_positive(run, config) or ""))
    if config.weights not in ("auto", "none"):
        settings["weights"] = Path(config.weights).name
        record = record | {"weights": record["weights"] | {"text": f"file {settings['weights']}"}}
    record = record | {"split": Path(str(record.get("split"))).name}  # a list of images is named by its path
    members = {"members": record["members"]} if record.get("members") else {}
    return {"name": run.name, **{key: record.get(key) for key in RECORDED}, **members, "config": settings,
            "split_sha256": file_sha256(run.results / "split.csv"),
            "summary": run.read_summary() or None}


def _operating_points(found: Evaluation, target: float, scores: bool) -> list[dict[str, Any]]:
    points = [{"class": found.positive, "target": float(goal), "threshold": threshold * (1 - ROUNDING)}
              for goal, threshold in found.thresholds.items()]
    if scores:
        for point in points:
            rows = found.points[(found.points["part"] == "test") & (found.points["target"] == point["target"])]
            point["test"] = _intervals(rows.set_index("score"))
    return sorted(points, key=lambda point: point["target"] != target)


def _describe_labels(found: LabelEvaluation, scores: bool) -> dict[str, Any]:
    """Returns a threshold of each label as an operating point without a target, and the scores of the test part."""
    points = [{"class": name, "target": None, "threshold": max(threshold * (1 - ROUNDING), 1e-12), "test": None}
              for name, threshold in zip(found.config.classes, found.thresholds, strict=True)]
    if not scores:
        return {"operating_points": points}
    table = read_test_scores(found.run)
    test = found.predictions[found.predictions["part"] == "test"]
    return {"operating_points": points, "metrics": {"part": "test", "images": len(test),
                                                    "groups": test["group"].nunique(), "scores": _intervals(table)}}


def _intervals(table) -> dict[str, list[float | None]]:
    """Returns estimate, low and high by score; None for NaN, which JSON does not have."""
    return {score: [None if math.isnan(row[name]) else round(float(row[name]), DECIMALS)
                    for name in ("estimate", "low", "high")] for score, row in table.iterrows()}
