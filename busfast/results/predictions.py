"""predictions.csv: the logits and probabilities of each validation and test image, from which all scores come."""

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from busfast import __version__
from busfast.csvfile import read_rows, write_csv
from busfast.data.labels import name_predicted, split_labels
from busfast.data.open_data import find_data
from busfast.data.split import Split
from busfast.data.split_file import check_unchanged, read_split
from busfast.errors import UserError
from busfast.imports import heavy_imports
from busfast.pipelines.config import Config
from busfast.results.calibration import to_probabilities
from busfast.training.runs import Run, file_sha256, write_record
from busfast.yamlfile import read_yaml

FILE, RECORD = "predictions.csv", "evaluation.yaml"
PARTS, EXTERNAL = ("valid", "test"), "external"
COLUMNS = ("image", "part", "center", "device", "patient", "group", "label")
KNOWN = ("age", "sex", "lesion_area")  # further columns, where they are known


def read_parts(run: Run, root: str | Path, parts: Sequence[str] = PARTS) -> Split:
    """Reads the validation and test part, or other parts, of a run's split; `root` is the folder of the table.

    Raises:
        UserError: one of the parts is empty.
    """
    path = run.results / "split.csv"
    split = read_split(path, root).only(*parts)
    rows = split.rows
    for part in parts:
        if part not in set(rows["part"]):
            raise UserError(f"The run {run.name} has no image in part '{part}' ({path}), so there is nothing to "
                            "report. Train a split that has one, such as --split=stratified.")
    for column in COLUMNS:
        if column not in rows:
            rows[column] = "image " + rows["image"] if column == "group" else ""
    return split


def make_predictions(config: Config, rows: pd.DataFrame, logits: np.ndarray) -> pd.DataFrame:
    """Returns what predictions.csv holds: logit_CLASS and p_CLASS of each of `rows`; `logits`: (n, k), of each."""
    classes, delim = config.classes, config.label_delim
    table = rows[[*COLUMNS, *(name for name in KNOWN if name in rows)]]
    table = table.assign(predicted=name_predicted(classes, logits, delim, 0.0))
    for prefix, values in (("logit_", logits), ("p_", to_probabilities(logits, delim))):
        table = table.join(pd.DataFrame(values, table.index, [f"{prefix}{name}" for name in classes]))
    return table


def write_predictions(run: Run, config: Config, rows: pd.DataFrame, logits: np.ndarray) -> None:
    """Writes what `make_predictions` returns."""
    write_csv(make_predictions(config, rows, logits), run.results / FILE, float_format="%.9g")


def read_predictions(run: Run, classes: Sequence[str], label_delim: str = "",
                     parts: Sequence[str] = PARTS) -> pd.DataFrame:
    """Reads predictions.csv; the columns logit_CLASS and p_CLASS are numbers, all others text.

    Raises:
        UserError: it is missing, or a cell is invalid; names row and column.
    """
    path = run.results / FILE
    if not path.is_file():
        raise UserError(f"The run {run.name} has no {FILE}. Write it: python -m busfast evaluate --run={run.name}")
    numbers = [f"{prefix}{name}" for prefix in ("logit_", "p_") for name in classes]
    header, rows, _ = read_rows(path, (*COLUMNS, *numbers))
    table = pd.DataFrame([cells for _, cells in rows], columns=header, dtype=object)
    values = table[numbers].apply(pd.to_numeric, errors="coerce").astype(float)
    for name in numbers:
        _check(path, table, name, np.isfinite(values[name]), "a finite number")
    table = pd.concat([table.drop(columns=numbers), values], axis=1)[header]
    known = table["label"].map(lambda label: set(split_labels(label, label_delim)) <= set(classes))
    _check(path, table, "label", known, ("some" if label_delim else "one") + " of " + ", ".join(classes))
    _check(path, table, "part", table["part"].isin(parts), "one of " + ", ".join(parts))
    return table


def _check(path: Path, table: pd.DataFrame, column: str, valid: pd.Series, wanted: str) -> None:
    if not valid.all():
        row = int(np.flatnonzero(~valid.to_numpy())[0])
        raise UserError(f"{path}, row {row + 2}, column {column}: '{table[column].iloc[row]}' is not {wanted}. "
                        "Write the file again: python -m busfast evaluate --again")


def arrays(predictions: pd.DataFrame, classes: Sequence[str], prefix: str = "p_") -> tuple[np.ndarray, np.ndarray]:
    """Returns labels, int (n,), and the columns `prefix`CLASS, float (n, k), of predictions."""
    labels = predictions["label"].map({name: index for index, name in enumerate(classes)}).to_numpy(int)
    return labels, predictions[[f"{prefix}{name}" for name in classes]].to_numpy(float)


def predict_parts(run: Run, *, again: bool = False, **flags) -> None:
    """Predicts the validation and test part of a run, unless these weights have predicted them already.

    Writes evaluation.yaml before predictions.csv, so that each look at the test part is on record even if what follows
    fails.

    Args:
        run: a trained run.
        again: predict in any case.
        flags: bs, device and threads of `load_model`, where they differ from training.

    Raises:
        UserError: weights or the test part are missing, another version of busfast trained the run, images are missing
            or changed.
    """
    config, record = run.read_config()
    if record.get("unscored"):
        raise UserError(f"{run.name} cannot be scored: {record['unscored']}. Evaluate its "
                        "members: in the lines 'test, pooled' of python -m busfast compare are their scores on images "
                        "that they did not see. On another labelled set it can be scored: --data=SET.")
    files = {"weights_sha256": check_weights(run, record), "split_sha256": file_sha256(run.results / "split.csv")}
    history = read_history(run)
    if history and files.items() <= history[-1].items() and (run.results / FILE).is_file() and not again:
        print(f"{run.name}: these weights were scored on {history[-1]['when']}; their {FILE} is reused (to predict "
              "again: --again)")
        return
    parts = read_parts(run, find_data(config.data).parent)
    paths, rows = check_unchanged(run.name, parts), parts.rows
    with heavy_imports():
        from busfast.inference.run_model import load_run_model
        from busfast.inference.stream import predict_logits
        from busfast.results.lesions import add_lesion_area

    logits, reasons = predict_logits(load_run_model(run.best_weights(), config, record, **flags), paths)
    refuse_unreadable(run.name, rows["image"], reasons)
    history.append({"when": datetime.datetime.now().astimezone().isoformat(timespec="seconds"), "busfast": __version__,
                    **files, "images": {part: int((rows["part"] == part).sum()) for part in PARTS}})
    update_record(run, test_scored=len(history), evaluations=history)
    write_predictions(run, config, add_lesion_area(rows, parts.root), logits)


def refuse_unreadable(what: str, images: Sequence[str], reasons: Sequence[str]) -> None:
    """Raises UserError for the first image of a run or set that could not be read (it has a reason)."""
    for name, reason in zip(images, reasons, strict=True):
        if reason:
            raise UserError(f"{name} of {what} cannot be read: {reason}. Nothing was scored. Restore it.")


def require_single_label(config: Config, verb: str) -> None:
    """Raises UserError for a run of several labels."""
    if config.label_delim:
        raise UserError(f"{verb} is for images of one label; this run has several (label_delim="
                        f"'{config.label_delim}'). Its scores: python -m busfast evaluate")


def read_history(run: Run) -> list[dict[str, Any]]:
    """Returns when, and with which weights, a run's test part was scored, oldest first.

    Raises:
        UserError: evaluation.yaml is damaged.
    """
    path = run.results / RECORD
    history = read_yaml(path).get("evaluations") or [] if path.is_file() else []
    if not isinstance(history, list) or not all(isinstance(entry, dict) and {"when", "weights_sha256"} <= entry.keys()
                                                for entry in history):
        raise UserError(f"{path} does not list when the test part was scored. Restore the file.")
    return history


def refuse_stale(run: Run) -> None:
    """Raises UserError if a run's weights are no longer those that predictions.csv is of: it was trained further."""
    history, weights = read_history(run), run.models / "best.pth"
    if history and weights.is_file() and file_sha256(weights) != history[-1]["weights_sha256"]:
        raise UserError(f"{weights} has changed since {run.name} was scored on {history[-1]['when']}, so its scores "
                        f"are of other weights. Score these first: python -m busfast evaluate --run={run.name}")


def update_record(run: Run, **values: Any) -> None:
    """Writes values into evaluation.yaml, whose other values stay."""
    path = run.results / RECORD
    write_record(path, (read_yaml(path) if path.is_file() else {}) | values)


def read_positive(run: Run, config: Config) -> str | None:
    """Returns the positive class that `evaluate` was given and recorded, else that of the configuration, if it has one.

    Raises:
        UserError: evaluation.yaml names none of the classes.
    """
    path = run.results / RECORD
    positive = (read_yaml(path) if path.is_file() else {}).get("positive")
    if positive and positive not in config.classes:
        raise UserError(f"{path}: positive={positive} is none of the classes {', '.join(config.classes)}. Correct it.")
    return positive or config.positive or None


def check_weights(run: Run, record: dict[str, Any]) -> str:
    """Returns the SHA-256 of a run's best weights.

    Raises:
        UserError: they are missing, or another version of busfast made them.
    """
    weights = run.best_weights()
    if not weights.is_file():
        raise UserError(f"The run {run.name} has no {weights}: it stopped within its first epoch, or the file was "
                        "moved. Train again: python -m busfast train")
    version = str((record.get("versions") or {}).get("busfast", "an unknown version"))
    if version.split(".")[:2] != __version__.split(".")[:2]:
        raise UserError(f"The run {run.name} was made by busfast {version}; this is {__version__}, which may "
                        "preprocess images differently. Use that version, or train again.")
    return file_sha256(weights)
