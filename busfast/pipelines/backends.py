"""Which loader, on which device: the choice, and why it was made."""

import importlib.util
import sys

import torch

from busfast.errors import UserError, choose
from busfast.pipelines.config import DEVICES

INSTALL_DALI = "pip install nvidia-dali-cuda130"


def _dali(*args):
    from busfast.pipelines.dali_loader import DaliLoader
    return DaliLoader(*args)


def _torchvision(*args):
    from busfast.pipelines.torchvision_loader import TorchvisionLoader
    return TorchvisionLoader(*args)


# Validation, prediction and exported learners all see these very pixels, so that the score of an epoch is the score
# that is served. DALI's resizing is within 0.2/255 of them on average, but even that can move a probability by 0.03.
REFERENCE = "torchvision"

# name -> a loader's class, called with (pipeline, bs, device, threads); imported only when chosen.
LOADERS = {"dali": _dali, "torchvision": _torchvision}


def choose_device(device: str = "auto") -> torch.device:
    """Returns the device to train on: CUDA, else Apple's MPS, else the CPU.

    Raises:
        UserError: the device asked for is not there.
    """
    choose("device", device, DEVICES)
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        device = next(name for name, found in there.items() if found)
    if not there[device]:
        raise UserError(f"device={device}: torch {torch.__version__} finds no {device.upper()} here. "
                        f"Use --device={' or '.join(name for name, found in there.items() if found)}.")
    return torch.device(device)


def choose_loader(loader: str = "auto", device: torch.device | None = None) -> tuple[str, str]:
    """Returns the loader's name and, in a few words, why it is the one.

    Raises:
        UserError: DALI was asked for and cannot be imported.
    """
    if loader == "auto":
        if device is not None and device.type == "mps":
            return "torchvision", "DALI does not run on MPS"
        reason = _why_no_dali()
        return ("torchvision", reason) if reason else ("dali", "DALI is installed")
    choose("loader", loader, LOADERS)
    if loader == "dali" and (reason := _why_no_dali()):
        raise UserError(f"loader=dali: {reason}. On Linux: {INSTALL_DALI}; elsewhere use --loader=torchvision.")
    return loader, "asked for"


def _why_no_dali() -> str:
    if not sys.platform.startswith("linux"):
        return f"DALI runs on Linux only, this is {sys.platform}"
    try:
        found = importlib.util.find_spec("nvidia.dali") is not None
    except (ImportError, ValueError):
        found = False
    if not found:
        return "DALI is not installed"
    try:
        import busfast.pipelines.dali_loader  # noqa: F401  (an install without its libraries fails only here)
    except (ImportError, OSError) as error:
        return f"DALI cannot be imported ({error})"
    return ""
