"""A trained model -> ONNX, with its preprocessing described in the file."""

import contextlib
import json
import logging
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from busfast.errors import UserError
from busfast.imports import require_package
from busfast.inference.bundle import INTENDED_USE
from busfast.inference.engines import INSTALL_ONNX, WithFeatures

PREPROCESSING = (
    "Decode the file; turn it upright by its EXIF orientation; gray of more than 8 bits is stretched from its own "
    "darkest to brightest value to 0..255; drop transparency; RGB (gray is repeated). Bring it to size x size "
    "pixels (height x width, if there is a width), bilinear with antialiasing (Pillow's Image.resize): 'squash' as a "
    "whole, 'crop' the largest part of that shape in the middle, 'pad' the whole image, with black borders; channels "
    "'gray': without color. x = (pixels / 255 - mean) / std for R, G, B; float32, (N, 3, height, width). "
    "Probabilities are {probabilities}.")


def require_onnx() -> None:
    """Raises UserError if a package is missing: torch's exporter would find that out only after a while."""
    require_package("onnxscript", "--format=onnx needs ONNX and ONNX Runtime", INSTALL_ONNX)


def export_onnx(model: nn.Module, facts: Mapping[str, Any], features: bool) -> bytes:
    """Exports a model for any batch size: input `images`, outputs `logits` and, optionally, `features`.

    The file's metadata has the keys `busfast` (JSON: classes, input, temperature, operating_points, outlier) and
    `preprocessing` (how an image becomes `images`, in English).

    The model must be in eval mode, on the CPU; `facts` as for `write_bundle`. Raises UserError if packages are missing
    or torch cannot export the model.
    """
    require_onnx()
    size, names = facts["input"]["size"], ["logits", "features"][:1 + features]
    x = torch.zeros(2, 3, size, facts["input"].get("width", size))
    probabilities = "sigmoid(logits), of each label" if facts.get("label_delim") else "softmax(logits / temperature)"
    metadata = {key: facts[key] for key in ("classes", "input", "temperature", "operating_points", "outlier")}
    try:
        with _quiet(), sdpa_kernel(SDPBackend.MATH):  # the layout of a CPU's own kernel does not survive the export
            program = torch.onnx.export(
                WithFeatures(model) if features else model, (x,), input_names=["images"], output_names=names,
                dynamic_shapes=({0: torch.export.Dim("n")},), dynamo=True, verbose=False)
        program.model.metadata_props.update({"busfast": json.dumps(metadata, allow_nan=False),
                                             "preprocessing": PREPROCESSING.format(probabilities=probabilities),
                                             "intended_use": INTENDED_USE})
        with tempfile.TemporaryDirectory() as folder:
            program.save(Path(folder) / "model.onnx", external_data=False)
            return (Path(folder) / "model.onnx").read_bytes()
    except Exception as error:  # torch's exporter fails in many ways
        raise UserError(f"torch cannot export {facts['architecture']} to ONNX: {str(error).splitlines()[0][:200]}. "
                        "Leave onnx out of --format.") from error


@contextlib.contextmanager
def _quiet():
    """Hides the exporter's advice, which busfast's users cannot follow."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(None):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
