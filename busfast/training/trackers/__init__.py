"""Trackers: where a run's curves, configuration, tables and report go besides its own folder.

A tracker is one file of this folder and one line in `TRACKERS`.
"""

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from busfast.errors import UserError, choose
from busfast.training.runs import Run, file_sha256, write_record
from busfast.yamlfile import read_yaml

if TYPE_CHECKING:
    from busfast.training.trackers.base import Tracker

STATE = "tracking.yaml"
# What trackers get: nothing that shows an image or has a row for one (explain.png, predictions.csv, split.csv).
FILES = ("config.yaml", "summary.yaml", "evaluation.yaml", "training_log.csv", "loss_curve.png", "recall_curve.png",
         "lr_curve.png", "metrics.csv", "calibration.csv", "operating_points.csv", "predictive_values.csv",
         "decision_curve.csv", "referral.csv", "localisation.csv", "probes.csv", "roc.png", "pr.png", "confusion.png",
         "centers.png", "reliability.png", "operating_points.png", "decision_curve.png", "model_card.md",
         "report.html")
# Name, as in pip install -> module and class, which are imported only where they are used.
TRACKERS = {"tensorboard": ("to_tensorboard", "TensorBoard"), "wandb": ("to_wandb", "WeightsAndBiases"),
            "mlflow": ("to_mlflow", "MLflow")}


def _tracker_class(name: str) -> type["Tracker"]:
    module, title = TRACKERS[name]
    return getattr(import_module(f"{__name__}.{module}"), title)


def choose_trackers(names: str | None) -> tuple[str, ...]:
    """Returns the trackers that a flag names, separated by commas; UserError if one is unknown or not importable."""
    chosen = tuple(dict.fromkeys(choose("tracker", name.strip(), TRACKERS)
                                 for name in (names or "").split(",") if name.strip()))
    for name in chosen:
        try:
            _tracker_class(name)
        except ImportError as error:
            raise UserError(f"--tracker={name} is not available here ({error}). Leave it out, or: pip install {name}"
                            ) from error
    return chosen


@contextmanager
def track(run: Run, names: Sequence[str] = (), done: int = 0) -> Iterator[list["Tracker"]]:
    """Opens a run's trackers; adds the run's files to them at the end, unless there was an error; closes them.

    tracking.yaml remembers the trackers: a run that is resumed, evaluated or reported on later needs no flag. Yields
    them, to be passed to the fit as callbacks; `done` epochs were trained by earlier processes.
    """
    states = _read_states(run)
    states |= {name: {} for name in names if name not in states}
    trackers = [tracker for name in states if (tracker := _make(name, run, states[name], done))]
    if not trackers:
        yield []
        return
    config, record = run.read_config()
    succeeded = False
    try:
        for tracker in trackers:
            tracker.attempt(tracker.open, _flat(asdict(config) | {"run": record}))
            tracker.attempt(_add_changed, tracker, ("config.yaml",))
            if tracker.title in names:
                tracker.attempt(_print_look, tracker)
        write_record(run.results / STATE, states)
        yield trackers
        for tracker in trackers:
            tracker.attempt(_add_changed, tracker, FILES)
        succeeded = True
    finally:
        for tracker in trackers:
            tracker.attempt(tracker.close, succeeded)
        with suppress(UserError):  # a full disk gives this error and the fit's, which counts
            write_record(run.results / STATE, states)


def track_results(run: Run) -> None:
    """Adds a run's new and changed files to its trackers, if it has any."""
    if any(_changed(run, state, FILES) for state in _read_states(run).values()):
        with track(run):
            pass


def _read_states(run: Run) -> dict[str, dict[str, Any]]:
    path = run.results / STATE
    states = read_yaml(path) if path.is_file() else {}
    if not all(name in TRACKERS and isinstance(state, dict) for name, state in states.items()):
        raise UserError(f"{path} does not name the run's trackers. Restore the file, or remove it to continue without "
                        "trackers.")
    return states


def _print_look(tracker: "Tracker") -> None:
    print(f"tracker: {tracker.title}; to look at it: {tracker.look()}")


def _make(name: str, run: Run, state: dict[str, Any], done: int) -> "Tracker | None":
    try:
        return _tracker_class(name)(run, state, done)
    except ImportError as error:  # uninstalled since the run began
        print(f"tracker {name}: {error} (pip install {name}); {run.name} continues without it")
        return None


def _changed(run: Run, state: dict[str, Any], names: Sequence[str]) -> dict[str, str]:
    """The files, with their checksums, that are new or changed since the tracker got them."""
    sums = {name: file_sha256(run.results / name) for name in names if (run.results / name).is_file()}
    return {name: digest for name, digest in sums.items() if state.get("files", {}).get(name) != digest}


def _add_changed(tracker: "Tracker", names: Sequence[str]) -> None:
    changed = _changed(tracker.tracked_run, tracker.state, names)
    with tempfile.TemporaryDirectory() as folder:
        files = [tracker.tracked_run.results / name for name in changed]
        tracker.add_files([_without_images(path, Path(folder)) if path.suffix == ".html" else path for path in files])
    tracker.state["files"] = tracker.state.get("files", {}) | changed


def _without_images(page: Path, folder: Path) -> Path:
    """Writes a page without what the report's template marks as images of patients."""
    text = re.sub(r"<!-- images -->.*?<!-- /images -->", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    (folder / page.name).write_text(text, encoding="utf-8")
    return folder / page.name


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one, keys joined by dots; lists as text."""
    flat = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
    return flat
