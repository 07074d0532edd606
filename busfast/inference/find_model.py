"""Finds the exported model that a user names; torch is not imported for what is not there."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from busfast.errors import UserError, choose, suggest_path
from busfast.text import listed

ENGINES = ("torch", "onnx")
FORMATS = ("bundle", "learner", "onnx")  # of an export
MOST_BYTES = 2_000_000  # of a bundle.json
PICKLES = (".pkl", ".pickle", ".pth", ".pt", ".ckpt")


def find_model(path: str | Path, engine: str = "torch", trust: bool = False) -> Path:
    """Returns the folder of a bundle, or a pickle that the user trusts.

    Raises:
        UserError: as `find_bundle`; a pickle without `trust`; an unknown engine, or one that the bundle has no file of.
    """
    choose("engine", engine, ENGINES)
    path = Path(path)
    if os.path.isfile(path) and path.suffix.lower() in PICKLES:
        if not trust:
            raise UserError(f"{path} is a pickle: loading it runs any code in it, so it is refused. Use the run's "
                            "bundle (export --format=bundle), or add --trust if you trust its author.")
        return path
    folder = find_bundle(path)
    if engine == "onnx" and not os.path.exists(folder / "model.onnx"):
        raise UserError(f"The bundle {folder} has no model.onnx. Export it with --format=onnx.")
    return folder


def find_bundle(path: str | Path) -> Path:
    """Returns the folder of a bundle: `path`, or bundle/ in it, as in the folder of a run.

    Raises:
        UserError: there is none; the message names the nearest, all that are here, and the command that makes one.
    """
    path = Path(path)
    if _has_bundle(path):
        return path if os.path.isfile(path / "bundle.json") else path / "bundle"
    here = sorted(str(file.parent) for file in Path("models").glob("*/*/bundle/bundle.json"))
    hint = suggest_path(path, _has_bundle) or suggest_path(Path("models", path), _has_bundle)  # the name of a run
    wrong = f"'{path}' is not a bundle: it has no bundle.json." if os.path.exists(path) else \
        f"There is no model '{path}'."
    known = f" Exported models here: {listed(here)}." if here else ""
    raise UserError(f"{wrong}{hint}{known} predict and evaluate take a run as it is, too: --run=RUN. To export one: "
                    "python -m busfast export --run=RUN")


def choose_points(facts: dict[str, Any], target: float | None) -> list[dict[str, Any]]:
    """Returns the operating points of a bundle.json that decide: all, or the one for a sensitivity.
    UserError if it has none for `target`, or if images have several labels."""
    points = facts["operating_points"]
    if target is None:
        return points
    if facts.get("label_delim"):
        raise UserError(f"target={target:g}: a model of several labels has one threshold for each. Leave it out.")
    if chosen := [point for point in points if f"{point['target']:g}" == f"{target:g}"]:
        return chosen
    there = ", ".join(f"{point['target']:g}" for point in points)
    raise UserError(f"target={target:g}: the model has no threshold for that sensitivity"
                    + (f", only for {there}. To have one" if there else ". Evaluate its run, then")
                    + f": python -m busfast export --run=RUN --target={target:g}")


def glance(folder: Path) -> dict[str, Any]:
    """Returns a bundle.json without any check, which `read_bundle` makes; {} if it cannot be read. For what can be
    refused before torch is imported."""
    with suppress(OSError, ValueError, RecursionError), open(folder / "bundle.json", "rb") as file:
        facts = json.loads(file.read(MOST_BYTES))
        if isinstance(facts, dict):
            return facts
    return {}


def check_bundle_target(folder: Path, target: float | None) -> None:
    """Refuses a sensitivity as `choose_points`; says nothing of a bundle that `read_bundle` will refuse."""
    with suppress(KeyError, TypeError, ValueError):
        choose_points(glance(folder), target)


def _has_bundle(path: Path) -> bool:
    return any(os.path.isfile(folder / "bundle.json") for folder in (path, path / "bundle"))
