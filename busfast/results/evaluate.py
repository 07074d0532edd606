"""A trained run -> predictions.csv of its validation and test part, and a record of each time that this was done."""

import datetime
from typing import Any

from busfast import __version__
from busfast.data.table import find_table
from busfast.errors import UserError
from busfast.pipelines.config import read_yaml
from busfast.results.predictions import FILE, PARTS, check_unchanged, read_parts, write_predictions
from busfast.results.runs import Run, file_sha256, write_record

RECORD = "evaluation.yaml"


def predict_parts(run: Run, *, again: bool = False, **flags) -> None:
    """Predicts the validation and test part of a run, unless that was done with these very weights.

    Writes predictions.csv and, before it, evaluation.yaml: that the test part was seen is known even if what follows
    fails.

    Args:
        run: a trained run.
        again: predict even if it was done.
        flags: bs, device and threads of `load_model`, if they shall be others than in training.

    Raises:
        UserError: no weights, no test part, another version of busfast, images that are gone or were changed.
    """
    config, record = run.read_config()
    if record.get("unscored"):
        raise UserError(f"{run.name} cannot be scored: {record['unscored']}. Evaluate its "
                        "members: what each says of images that it did not see is in the lines 'test, pooled' of "
                        "python -m busfast compare.")
    files = {"weights_sha256": check_weights(run, record), "split_sha256": file_sha256(run.results / "split.csv")}
    history = read_history(run)
    made = [entry for entry in history if files.items() <= entry.items()]
    if made and (run.results / FILE).is_file() and not again:
        print(f"{run.name}: these weights were scored on {made[-1]['when']}; their {FILE} is used (--again: predict "
              "once more)", flush=True)
        return
    parts = read_parts(run, find_table(config.data).parent)
    paths = check_unchanged(run, parts)
    from busfast.models.predict import load_run_model, predict_logits

    logits, reasons = predict_logits(load_run_model(run.best_weights(), config, record, **flags), paths)
    for name, reason in zip(parts["image"], reasons, strict=True):
        if reason:
            raise UserError(f"{name} of {run.name} cannot be read: {reason}. Nothing was scored. Bring it back.")
    history.append({"when": datetime.datetime.now().astimezone().isoformat(timespec="seconds"), "busfast": __version__,
                    **files, "images": {part: int((parts["part"] == part).sum()) for part in PARTS}})
    write_record(run.results / RECORD, {"test_scored": len(history), "evaluations": history})
    write_predictions(run, config.classes, parts, logits)


def read_history(run: Run) -> list[dict[str, Any]]:
    """Returns each time that a run's test part was scored, the first one first: when, and with which weights.

    Raises:
        UserError: the record is damaged.
    """
    path = run.results / RECORD
    history = read_yaml(path).get("evaluations") or [] if path.is_file() else []
    if not isinstance(history, list) or not all(isinstance(entry, dict) and {"when", "weights_sha256"} <= entry.keys()
                                                for entry in history):
        raise UserError(f"{path} does not list when the test part was scored. Bring the old file back.")
    return history


def check_weights(run: Run, record: dict[str, Any]) -> str:
    """Returns the hash of a run's best weights.

    Raises:
        UserError: they are not there, or another version of busfast made them.
    """
    weights = run.best_weights()
    if not weights.is_file():
        raise UserError(f"The run {run.name} has no {weights}: it ended before its first epoch did, or the file was "
                        "moved. Train again: python -m busfast train.")
    made = str((record.get("versions") or {}).get("busfast", "an unknown version"))
    if made.split(".")[:2] != __version__.split(".")[:2]:
        raise UserError(f"The run {run.name} was made by busfast {made}; this is {__version__}, which may see other "
                        "pixels. Use that version, or train again.")
    return file_sha256(weights)
