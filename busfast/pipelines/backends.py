"""Chooses the loader, and says why."""

import importlib.util
import sys
from dataclasses import dataclass

import torch

from busfast.errors import UserError, choose
from busfast.pipelines.devices import choose_device

INSTALL_DALI = "pip install nvidia-dali-cuda130"


def _dali(*args):
    from busfast.pipelines.dali_loader import DaliLoader
    return DaliLoader(*args)


def _torchvision(*args):
    from busfast.pipelines.torchvision_loader import TorchvisionLoader
    return TorchvisionLoader(*args)


# Validation, prediction and exported learners all use this loader's pixels, so that the score of an epoch is the score
# in use. DALI's resizing differs by 0.2/255 on average, which can move a probability by 0.03.
REFERENCE = "torchvision"

# name -> function(pipeline, bs, device, threads, exact) that returns a loader; imports it only when called.
LOADERS = {"dali": _dali, "torchvision": _torchvision}


@dataclass(frozen=True)
class Backend:
    """Where a model is trained, and what makes its training batches.

    Attributes:
        device: of model and batches.
        loader: a key of `LOADERS`.
        reason: why it is this loader.
    """

    device: torch.device
    loader: str
    reason: str


def choose_backend(loader: str = "auto", device: str = "auto") -> Backend:
    """Chooses device and loader; see `choose_device` and `choose_loader`."""
    chosen = choose_device(device)
    return Backend(chosen, *choose_loader(loader, chosen))


def choose_loader(loader: str = "auto", device: torch.device | None = None) -> tuple[str, str]:
    """Returns the loader's name and the reason; UserError if DALI was requested and cannot be imported."""
    if loader == "auto":
        if device is not None and device.type == "mps":
            return "torchvision", "DALI does not run on MPS"
        reason = _why_no_dali(device)
        return ("torchvision", reason) if reason else ("dali", "DALI is installed")
    choose("loader", loader, LOADERS)
    if loader == "dali" and (reason := _why_no_dali(device)):
        raise UserError(f"loader=dali: {reason}. On Linux: {INSTALL_DALI}; elsewhere use --loader=torchvision.")
    return loader, "asked for"


def _why_no_dali(device: torch.device | None) -> str:
    if not sys.platform.startswith("linux"):
        return f"DALI runs on Linux only, this is {sys.platform}"
    try:
        installed = importlib.util.find_spec("nvidia.dali") is not None
    except (ImportError, ValueError):
        installed = False
    if not installed:
        return "DALI is not installed"
    try:
        from busfast.pipelines.dali_loader import why_not_on  # fails here if shared libraries are missing
    except (ImportError, OSError) as error:
        return f"DALI cannot be imported ({error})"
    return why_not_on(device.index or 0) if device is not None and device.type == "cuda" else ""
