"""Loads a bundle with torch, timm and safetensors alone. This file may be copied out of busfast; it imports none of it.

    model, facts = load_bundle("models/phantom/stratified/bundle")
    probabilities = (model(x) / (facts["temperature"] or 1)).softmax(dim=1)    # of facts["classes"]

`x` is float32, (N, 3, size, size): the image as `fit_pixels` of `busfast/data/images.py` gives it (that file needs
Pillow and NumPy alone and may be copied, too), divided by 255, less `facts["input"]["mean"]`, divided by `["std"]`.
"""

import hashlib
import json
from pathlib import Path

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors

FORMAT, MAJOR = "busfast bundle", 1
KEYS = {"format", "version", "intended_use", "classes", "architecture", "input", "temperature", "operating_points",
        "metrics", "outlier", "run", "files"}
FILES = {"weights.safetensors", "outlier.safetensors", "model.onnx"}
MOST = 2_000_000  # bytes of bundle.json


def load_bundle(folder: str | Path) -> tuple[torch.nn.Module, dict]:
    """Returns the model of a bundle, in eval mode, and what bundle.json says. No code of the bundle is run.

    Raises:
        ValueError: the folder is no bundle, was changed, or is of another major version.
        OSError: a file cannot be read.
    """
    facts = read_facts(folder)
    name = facts["architecture"]
    try:
        weights = read_tensors(read_file(folder, facts, "weights.safetensors"))
    except SafetensorError as error:
        raise ValueError(f"weights.safetensors: {error}") from None
    if not timm.is_model(name.partition(".")[0]) or ":" in name:
        raise ValueError(f"bundle.json: timm {timm.__version__} has no model '{name}'")
    model = timm.create_model(name, pretrained=False, num_classes=len(facts["classes"]))
    own = model.state_dict()
    wrong = sorted(own.keys() ^ weights.keys()) + sorted(
        key for key in own.keys() & weights.keys() if own[key].shape != weights[key].shape)
    if wrong:
        raise ValueError(f"weights.safetensors does not fit {name}: '{wrong[0]}' and {len(wrong) - 1} more tensors")
    model.load_state_dict(weights)
    return model.eval(), facts


def read_facts(folder: str | Path) -> dict:
    """Reads and checks bundle.json; raises as `load_bundle`."""
    path = Path(folder) / "bundle.json"
    with open(path, "rb") as file:
        text = file.read(MOST + 1)
    if len(text) > MOST:
        raise ValueError(f"bundle.json is larger than {MOST} bytes")
    try:
        facts = json.loads(text, object_pairs_hook=_no_key_twice, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("bundle.json is nested too deeply") from None
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise ValueError(f"bundle.json does not say \"format\": \"{FORMAT}\"")
    version = str(facts.get("version"))
    if version.partition(".")[0] != str(MAJOR):
        raise ValueError(f"bundle.json is of version {version[:20]}; this code reads {MAJOR}.x")
    if facts.keys() != KEYS:
        raise ValueError(f"bundle.json: the key '{str(sorted(facts.keys() ^ KEYS)[0])[:40]}' is unknown or missing")
    classes, files = facts["classes"], facts["files"]
    if not (isinstance(classes, list) and 2 <= len(classes) <= 10_000 and all(isinstance(one, str) for one in classes)
            and len(set(classes)) == len(classes) and isinstance(facts["architecture"], str)):
        raise ValueError("bundle.json: classes are no two names or more, each once, or architecture is no name")
    if not isinstance(files, dict) or not {"weights.safetensors"} <= files.keys() <= FILES:
        raise ValueError(f"bundle.json: files must name weights.safetensors, and others of {sorted(FILES)} alone")
    return facts


def read_file(folder: str | Path, facts: dict, name: str) -> bytes:
    """Returns the bytes of a file of the bundle, if they have the checksum that bundle.json gives."""
    data = (Path(folder) / name).read_bytes()
    if hashlib.sha256(data).hexdigest() != facts["files"].get(name):
        raise ValueError(f"{name} is not the file that the bundle was made with: its checksum differs")
    return data


def _no_key_twice(pairs: list) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("bundle.json: a key stands there twice")
    return found


def _no_constant(name: str):
    raise ValueError(f"bundle.json: {name} is no number")
