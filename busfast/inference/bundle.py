"""A trained model as files that cannot hold code: weights.safetensors and bundle.json; no pickle."""

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
from busfast.inference.find_model import find_bundle
from busfast.inference.load_bundle import EXTRA, FORMAT, Mirrored, load_bundle, read_facts, read_file
from busfast.inference.outlier import Outlier
from busfast.pipelines.config import Config
from busfast.pipelines.image import ImagePipeline

INTENDED_USE = (
    "Research only. This is not a medical device and nothing it says is a diagnosis. It was measured on the data "
    "named under `run` alone; on images of other centers, devices and patients it may be wrong far more often.")
MAX_OUTLIER_BYTES = 64_000_000
READINGS = (1, READING)  # rules that read images as now, but for rare files that version 1 cut or refused
POINT_KEYS = {"class", "target", "threshold", "test"}
EXTRA_KEYS = set().union(*EXTRA.values())


@dataclass(frozen=True)
class Bundle:
    """A bundle without its weights."""

    folder: Path
    facts: dict[str, Any]  # the checked content of bundle.json
    image: ImagePipeline
    outlier: Outlier | None  # None: the bundle has no outlier score

    def model(self) -> nn.Module:
        """Returns the model, in eval mode; raises as `read_bundle`."""
        with _refuse(self.folder):
            return load_bundle(self.folder)[0]

    def onnx(self) -> bytes:
        """Returns model.onnx; raises UserError if the bundle has none, or it was changed."""
        if "model.onnx" not in self.facts["files"]:
            raise UserError(f"The bundle {self.folder} has no model.onnx. Export it with --format=onnx.")
        with _refuse(self.folder):
            return read_file(self.folder, self.facts, "model.onnx")


def read_bundle(folder: str | Path) -> Bundle:
    """Reads and checks all of a bundle but its weights; `folder`: see `find_bundle`.
    UserError for no bundle, unknown keys or files, values out of range, wrong checksums, or another major version."""
    folder = find_bundle(folder)
    with _refuse(folder):
        facts = read_facts(folder)
        image = _check(facts)
        outlier = None
        if "outlier.safetensors" in facts["files"]:
            outlier = Outlier(**read_arrays(read_file(folder, facts, "outlier.safetensors", MAX_OUTLIER_BYTES)))
    return Bundle(folder, facts, image, outlier)


def describe_input(image: ImagePipeline) -> dict[str, Any]:
    """Returns the value of the key `input` of bundle.json; `width` only if it is not square (`EXTRA["3"]`)."""
    wide = {"width": image.width} if image.width else {}
    return {"size": image.size, **wide, "resize": image.resize, "channels": image.channels, "mean": list(image.mean),
            "std": list(image.std), "reading": READING}


def write_bundle(folder: Path, model: nn.Module, facts: Mapping[str, Any], outlier: Outlier | None = None,
                 onnx: bytes | None = None) -> None:
    """Writes the files of a bundle into an empty folder, bundle.json last; raises UserError if it cannot.

    `facts` has all keys of bundle.json but format, version, intended_use and files; `members`, their number, only if
    the model is an `Ensemble`, and those of `EXTRA["3"]` together; which it has makes the version. Within
    `atomic_folder`, all files appear at once.
    """
    plain = model.model if isinstance(model, Mirrored) else model
    weights = {name: value.detach().cpu().contiguous() for name, value in plain.state_dict().items()}
    files = {"weights.safetensors": write_tensors(weights)}
    if outlier is not None:
        files["outlier.safetensors"] = write_arrays(asdict(outlier))
    if onnx is not None:
        files["model.onnx"] = onnx
    for name, data in files.items():
        with atomic(folder / name, "wb") as file:
            file.write(data)
    version = next(major for major, keys in EXTRA.items() if keys == EXTRA_KEYS & facts.keys()) + ".0"
    content = {"format": FORMAT, "version": version, "intended_use": INTENDED_USE, **facts,
               "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}}
    with atomic(folder / "bundle.json") as file:
        file.write(json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yields a hidden folder that replaces `path` at the end; after an error `path` is unchanged."""
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
        raise UserError(f"Cannot write {path}: {error.strerror or error}. Free some space or choose a writable folder, "
                        "then run again.") from error


@contextmanager
def _refuse(folder: Path) -> Iterator[None]:
    """Turns any error about a bundle's content into a UserError."""
    try:
        yield
    except Exception as error:  # wrong values raise errors of any kind
        reason = str(error) or type(error).__name__
        if isinstance(error, OSError) and error.filename:
            reason = f"{Path(error.filename).name}: {error.strerror}"
        raise UserError(f"The bundle {folder} is refused: {reason.splitlines()[0][:300]}. Export it again, or ask its "
                        "sender for a new copy.") from error


def _check(facts: dict[str, Any]) -> ImagePipeline:
    """Checks what `read_facts` has not; returns the image pipeline."""
    given, classes = facts["input"], facts["classes"]
    width = {"width"} if isinstance(given, dict) and "label_delim" in facts else set()
    keys = describe_input(ImagePipeline()).keys()
    if not isinstance(given, dict) or given.keys() - width != keys:
        raise ValueError(f"bundle.json: input must have exactly the keys {', '.join(keys)}")
    if given["reading"] not in READINGS:
        raise ValueError(f"its images were read by version {given['reading']} of the rules; this busfast has {READING}")
    # Config checks sizes and classes.
    config = Config(classes=tuple(classes), size=given["size"], width=given.get("width", 0), resize=given["resize"],
                    channels=given["channels"])
    mean, std = ([_number(value, f"input {name}", low) for value in given[name]]
                 for name, low in (("mean", -math.inf), ("std", 0)))
    if len(mean) != 3 or len(std) != 3:
        raise ValueError("bundle.json: mean and std need three numbers each")
    if facts["temperature"] is not None:
        _number(facts["temperature"], "temperature", 0)
    if not isinstance(facts["operating_points"], list):
        raise ValueError("bundle.json: operating_points is not a list")
    for point in facts["operating_points"]:
        if point.keys() != POINT_KEYS or point["class"] not in classes:
            raise ValueError("bundle.json: an operating point must have exactly the keys "
                             f"{', '.join(sorted(POINT_KEYS))} and a known class")
        for name in ("threshold",) if facts.get("label_delim") and point["target"] is None else ("target", "threshold"):
            _number(point[name], f"operating point, {name}", 0)
    return ImagePipeline(config.size, config.resize, config.channels, mean=tuple(mean), std=tuple(std),
                         width=config.width)


def _number(value: Any, name: str, above: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= above:
        raise ValueError(f"bundle.json: {name} = {str(value)[:40]} is not a number above {above}")
    return float(value)
