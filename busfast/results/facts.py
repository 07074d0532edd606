"""A run's files -> what is handed over with its model: how to feed it, how to read it, and how good it was."""

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from busfast.models.bundle import describe_input
from busfast.models.predict import run_image
from busfast.pipelines.config import Config, read_yaml
from busfast.results.evaluate import read_history
from busfast.results.predictions import FILE
from busfast.results.runs import Run, file_sha256
from busfast.results.summary import TARGET, Evaluation, summarise

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
