"""A trained model as ONNX, with all that is needed to feed it written into the file."""

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

from busfast.errors import UserError
from busfast.inference.bundle import USE
from busfast.inference.engines import INSTALL_ONNX, WithFeatures

READING = ("Decode the file; turn it upright by its EXIF orientation; gray of more than 8 bits is stretched from its "
           "own darkest to brightest value to 0..255; drop transparency; RGB (gray is repeated). Bring it to size x "
           "size pixels, bilinear with antialiasing (Pillow's Image.resize): 'squash' as a whole, 'crop' the square in "
           "the middle, 'pad' the longer side, with black borders; channels 'gray': without color. x = (pixels / 255 - "
           "mean) / std for R, G, B; float32, (N, 3, size, size). Probabilities are softmax(logits / temperature).")


def export_onnx(model: nn.Module, facts: Mapping[str, Any], features: bool) -> bytes:
    """Exports a model with a batch of any size; input `images`, outputs `logits` and, if asked for, `features`.

    The file's metadata has the keys `busfast` (JSON: classes, input, temperature, operating_points, outlier) and
    `preprocessing` (how an image becomes `images`, in words).

    Args:
        model: in eval mode, on the CPU.
        facts: as those of `write_bundle`.
        features: give those of `WithFeatures`, too.

    Raises:
        UserError: the packages for it are missing, or torch cannot export the model.
    """
    try:
        import onnxscript  # noqa: F401  (torch's exporter needs it, and says so only after a while)
    except ImportError:
        raise UserError(f"--format=onnx needs ONNX and ONNX Runtime: {INSTALL_ONNX}") from None
    size, names = facts["input"]["size"], ["logits", "features"][:1 + features]
    x = torch.zeros(2, 3, size, size)
    told = {key: facts[key] for key in ("classes", "input", "temperature", "operating_points", "outlier")}
    try:
        with _quiet():
            program = torch.onnx.export(
                WithFeatures(model) if features else model, (x,), input_names=["images"], output_names=names,
                dynamic_shapes=({0: torch.export.Dim("n")},), dynamo=True, verbose=False)
        program.model.metadata_props.update({"busfast": json.dumps(told, allow_nan=False), "preprocessing": READING,
                                             "intended_use": USE})
        with tempfile.TemporaryDirectory() as folder:
            program.save(Path(folder) / "model.onnx", external_data=False)
            return (Path(folder) / "model.onnx").read_bytes()
    except Exception as error:  # torch's exporter fails in many ways; each means the same here
        raise UserError(f"torch cannot export {facts['architecture']} to ONNX: {str(error).splitlines()[0][:200]}. "
                        "Leave onnx out of --format.") from error


@contextlib.contextmanager
def _quiet():
    """The exporter's own advice is not for busfast's users."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(None):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
