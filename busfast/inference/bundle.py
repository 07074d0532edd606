"""A trained model as plain files that no code can hide in: weights.safetensors and bundle.json; no pickle."""

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.numpy import load as read_arrays
from safetensors.numpy import save as write_arrays
from safetensors.torch import save as write_tensors
from torch import nn

from busfast.data.images import READING
from busfast.errors import UserError
from busfast.files import atomic, flush_folder, share
from busfast.inference.load_bundle import FORMAT, load_bundle, read_facts, read_file
from busfast.inference.outlier import Outlier
from busfast.pipelines.config import Config
from busfast.pipelines.image import ImagePipeline

USE = ("Research only. This is not a medical device and nothing it says is a diagnosis. It was measured on the data "
       "named under `run` alone; on images of other centers, devices and patients it may be wrong far more often.")
MOST = 64_000_000  # bytes of outlier.safetensors
POINT = {"class", "target", "threshold", "test"}


@dataclass(frozen=True)
class Bundle:
    """What is known of a bundle without its weights.

    Attributes:
        folder: where it lies.
        facts: the checked content of bundle.json.
        image: the image pipeline.
        outlier: tells images that are unlike those of the training part; None: not in the bundle.
    """

    folder: Path
    facts: dict[str, Any]
    image: ImagePipeline
    outlier: Outlier | None

    def model(self) -> nn.Module:
        """Returns the model, in eval mode; `Raises` as `read_bundle`."""
        with _refusing(self.folder):
            return load_bundle(self.folder)[0]

    def onnx(self) -> bytes:
        """Returns model.onnx; raises UserError if the bundle has none, or it was changed."""
        if "model.onnx" not in self.facts["files"]:
            raise UserError(f"The bundle {self.folder} has no model.onnx. Export it with --format=onnx.")
        with _refusing(self.folder):
            return read_file(self.folder, self.facts, "model.onnx")


def read_bundle(folder: str | Path) -> Bundle:
    """Reads all of a bundle but its weights.

    Raises:
        UserError: no bundle, a pickle in its place, unknown keys, values out of range, a checksum that does not match,
            another major version, files that are named otherwise.
    """
    folder = Path(folder)
    if not os.path.isfile(folder / "bundle.json"):
        raise UserError(f"{folder} is no bundle: there is no {folder / 'bundle.json'}. Make one of a run: python -m "
                        "busfast export --run=RUN --format=bundle")
    with _refusing(folder):
        facts = read_facts(folder)
        image = _check(facts)
        outlier = None
        if "outlier.safetensors" in facts["files"]:
            outlier = Outlier(**read_arrays(read_file(folder, facts, "outlier.safetensors", MOST)))
    return Bundle(folder, facts, image, outlier)


def describe_input(image: ImagePipeline) -> dict[str, Any]:
    """Returns the part `input` of bundle.json."""
    return {"size": image.size, "resize": image.resize, "channels": image.channels, "mean": list(image.mean),
            "std": list(image.std), "reading": READING}


def write_bundle(folder: Path, model: nn.Module, facts: Mapping[str, Any], outlier: Outlier | None = None,
                 onnx: bytes | None = None) -> None:
    """Writes the files of a bundle, bundle.json last; `new_folder` makes that all of them appear at once.

    Args:
        folder: an empty folder.
        model: its weights are written.
        facts: all keys of bundle.json but format, version, intended_use and files; with `members`, how many, where the
            model is an `Ensemble`, which takes version 2.
        outlier: see `Outlier`.
        onnx: the content of model.onnx.

    Raises:
        UserError: a file cannot be written.
    """
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    files = {"weights.safetensors": write_tensors(weights)}
    if outlier is not None:
        files["outlier.safetensors"] = write_arrays(asdict(outlier))
    if onnx is not None:
        files["model.onnx"] = onnx
    for name, data in files.items():
        with atomic(folder / name, "wb") as file:
            file.write(data)
    whole = {"format": FORMAT, "version": "2.0" if "members" in facts else "1.0", "intended_use": USE, **facts,
             "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}}
    with atomic(folder / "bundle.json") as file:
        file.write(json.dumps(whole, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yields a hidden folder beside `path`, which takes its place when all went well; else `path` stays as it was.

    Raises:
        UserError: it cannot be written.
    """
    try:
        fresh = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
        try:
            yield fresh
            share(fresh, 0o777)
            old = fresh.with_name(f"{fresh.name}-old")
            if path.exists():
                os.rename(path, old)
            os.rename(fresh, path)
            flush_folder(path.parent)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror or error}. Make room or choose a folder that can be "
                        "written to, then run again.") from error


@contextmanager
def _refusing(folder: Path) -> Iterator[None]:
    """Turns whatever is wrong with a bundle's content into a clear refusal."""
    try:
        yield
    except Exception as error:  # wrong values raise errors of any kind
        text = str(error) or type(error).__name__
        if isinstance(error, OSError) and error.filename:
            text = f"{Path(error.filename).name}: {error.strerror}"
        raise UserError(f"The bundle {folder} is refused: {text.splitlines()[0][:300]}. Export it anew, or get it anew "
                        "from whoever made it.") from error


def _check(facts: dict[str, Any]) -> ImagePipeline:
    """Checks what `read_facts` has not; returns the image pipeline."""
    given, classes = facts["input"], facts["classes"]
    wanted = describe_input(ImagePipeline())
    if not isinstance(given, dict) or given.keys() != wanted.keys():
        raise ValueError(f"bundle.json: input has not just the keys {', '.join(wanted)}")
    if given["reading"] != READING:
        raise ValueError(f"images were read by rules {given['reading']} when it was made, and are by {READING} here")
    # Config knows what sizes and classes may be.
    config = Config(classes=tuple(classes), size=given["size"], resize=given["resize"], channels=given["channels"])
    mean, std = ([_number(value, f"input {name}", low) for value in given[name]]
                 for name, low in (("mean", -math.inf), ("std", 0)))
    if len(mean) != 3 or len(std) != 3:
        raise ValueError("bundle.json: mean and std need three numbers each")
    if facts["temperature"] is not None:
        _number(facts["temperature"], "temperature", 0)
    if not isinstance(facts["operating_points"], list):
        raise ValueError("bundle.json: operating_points is no list")
    for point in facts["operating_points"]:
        if point.keys() != POINT or point["class"] not in classes:
            raise ValueError(f"bundle.json: an operating point has not just the keys {', '.join(sorted(POINT))}, or is "
                             "of an unknown class")
        for name in ("target", "threshold"):
            _number(point[name], f"operating point, {name}", 0)
    return ImagePipeline(config.size, config.resize, config.channels, mean=tuple(mean), std=tuple(std))


def _number(value: Any, name: str, above: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= above:
        raise ValueError(f"bundle.json: {name} = {str(value)[:40]} is no number above {above}")
    return float(value)
