"""Trackers: where a run's curves, configuration, tables and report go besides its own folder.

A tracker is one file of this folder and one line in `TRACKERS`.
"""

import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from busfast.errors import UserError, choose
from busfast.training.runs import Run, file_sha256, write_record
from busfast.yamlfile import read_yaml

if TYPE_CHECKING:
    from busfast.training.trackers.base import Tracker

FILE = "tracking.yaml"
# What is handed over: nothing that shows an image or has a row for one (explain.png, predictions.csv, split.csv).
FILES = ("config.yaml", "summary.yaml", "evaluation.yaml", "training_log.csv", "loss_curve.png", "recall_curve.png",
         "lr_curve.png", "metrics.csv", "calibration.csv", "operating_points.csv", "referral.csv", "localisation.csv",
         "probes.csv", "roc.png", "pr.png", "confusion.png", "centers.png", "reliability.png", "operating_points.png",
         "model_card.md", "report.html")


def _tensorboard():
    from busfast.training.trackers.to_tensorboard import TensorBoard
    return TensorBoard


def _wandb():
    from busfast.training.trackers.to_wandb import WeightsAndBiases
    return WeightsAndBiases


def _mlflow():
    from busfast.training.trackers.to_mlflow import MLflow
    return MLflow


# name, as pip knows the package -> what imports its `Tracker`, which is done only where it is wanted.
TRACKERS: dict[str, Callable[[], type["Tracker"]]] = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow}


def choose_trackers(names: str | None) -> tuple[str, ...]:
    """Returns the trackers that a flag names, each once.

    Args:
        names: names of `TRACKERS`, separated by commas; None: none.

    Raises:
        UserError: an unknown one, or one whose package cannot be imported.
    """
    words = [word.strip() for word in (names or "").split(",")]
    chosen = tuple(dict.fromkeys(choose("tracker", word, TRACKERS) for word in words if word))
    for name in chosen:
        try:
            TRACKERS[name]()
        except ImportError as error:
            raise UserError(f"--tracker={name} cannot be had here ({error}): pip install {name}. Or leave it out."
                            ) from error
    return chosen


@contextmanager
def track(run: Run, names: Sequence[str] = (), done: int = 0) -> Iterator[list["Tracker"]]:
    """Opens a run's trackers, hands its files over where all goes well, and closes them.

    tracking.yaml remembers them: a run that goes on, or is evaluated or reported on later, needs no flag.

    Args:
        run: its config.yaml is written.
        names: as `choose_trackers` returns them; those that the run has already come by themselves.
        done: epochs that were trained before.

    Yields:
        The trackers, which are callbacks of the fit.
    """
    path = run.results / FILE
    known = _read_known(run)
    known |= {name: {} for name in names if name not in known}
    trackers = [one for name in known if (one := _make(name, run, known[name], done))]
    if not trackers:
        yield []
        return
    config, record = run.read_config()
    ended_well = False
    try:
        for one in trackers:
            one.safely(one.open, _flat(asdict(config) | {"run": record}))
            one.safely(_hand_over, one, run, FILES[:1])
        write_record(path, known)
        yield trackers
        for one in trackers:
            one.safely(_hand_over, one, run, FILES)
        ended_well = True
    finally:
        for one in trackers:
            one.safely(one.close, ended_well)
        with suppress(UserError):  # what ended the fit counts: a full disk gives both
            write_record(path, known)


def track_results(run: Run) -> None:
    """Hands what is new in a run's folder over to the trackers that it has, if it has any."""
    if any(_news(run, known, FILES) for known in _read_known(run).values()):
        with track(run):
            pass


def _read_known(run: Run) -> dict[str, dict[str, Any]]:
    path = run.results / FILE
    known = read_yaml(path) if path.is_file() else {}
    if not all(name in TRACKERS and isinstance(kept, dict) for name, kept in known.items()):
        raise UserError(f"{path} does not say which trackers the run has. Bring the old file back, or remove it: then "
                        "it has none.")
    return known


def _make(name: str, run: Run, known: dict[str, Any], done: int) -> "Tracker | None":
    try:
        return TRACKERS[name]()(run, known, done)
    except ImportError as error:  # it was there when the run began
        print(f"tracker {name}: {error} (pip install {name}); {run.name} goes on without it", flush=True)
        return None


def _news(run: Run, known: dict[str, Any], names: Sequence[str]) -> dict[str, str]:
    """Which of these files, with their checksums, a tracker does not have as they are now."""
    sums = {name: file_sha256(run.results / name) for name in names if (run.results / name).is_file()}
    return {name: digest for name, digest in sums.items() if known.get("files", {}).get(name) != digest}


def _hand_over(tracker: "Tracker", run: Run, names: Sequence[str]) -> None:
    news = _news(run, tracker.known, names)
    with tempfile.TemporaryDirectory() as folder:
        files = [run.results / name for name in news]
        tracker.add([_without_images(path, Path(folder)) if path.suffix == ".html" else path for path in files])
    tracker.known["files"] = tracker.known.get("files", {}) | news


def _without_images(page: Path, folder: Path) -> Path:
    """Writes a page as it is without what the report's template marks as images of patients."""
    text = re.sub(r"<!-- images -->.*?<!-- /images -->", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    (folder / page.name).write_text(text, encoding="utf-8")
    return folder / page.name


def _flat(values: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Nested dicts as one, its keys joined by dots; lists in words."""
    flat = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{before}{key}.")
        else:
            flat[f"{before}{key}"] = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
    return flat
