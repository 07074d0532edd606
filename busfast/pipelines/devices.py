"""The device that computes: which one there is, or why not, and what is different on each."""

import os
import re
from pathlib import Path

import torch

from busfast.errors import UserError, choose
from busfast.pipelines.config import DEVICES
from busfast.processes import local_rank, world_size

DRIVER = Path("/proc/driver/nvidia/version")


def choose_device(device: str = "auto") -> torch.device:
    """Returns the device to train on: CUDA, else Apple's MPS, else the CPU; UserError if it is not available.

    On CUDA float32 means IEEE's: cuDNN's TF32, which torch allows by default, moves probabilities by up to 1e-2.
    """
    choose("device", device, DEVICES)
    problems = {"cuda": why_no_cuda(), "mps": "" if torch.backends.mps.is_available() else "it finds none", "cpu": ""}
    if device == "auto":
        device = next(name for name, problem in problems.items() if not problem)
    if problems[device]:
        raise UserError(f"device={device}: torch {torch.__version__} cannot use {device.upper()} here: "
                        f"{problems[device]}. Use --device="
                        f"{' or '.join(name for name, problem in problems.items() if not problem)}.")
    if device == "cuda":
        torch.backends.cudnn.allow_tf32 = False
        # With its number, as tensors have it: devices are compared.
        return torch.device("cuda", local_rank() if world_size() > 1 else torch.cuda.current_device())
    return torch.device(device)


def why_no_cuda() -> str:
    """Returns why torch cannot compute on a GPU of NVIDIA's here; "" if it can."""
    if torch.version.cuda is None:
        return "this torch is built without CUDA; pytorch.org says how to install one with CUDA"
    if not torch.cuda.is_available():
        if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
            return "CUDA_VISIBLE_DEVICES hides every GPU"
        if not DRIVER.exists():
            return "there is no NVIDIA driver"
        return (f"the NVIDIA driver does not go with its CUDA {torch.version.cuda} (nvidia-smi shows which CUDA it is "
                "for); update the driver, or install a torch for an older CUDA (pytorch.org)")
    major, minor = torch.cuda.get_device_capability()
    kernels = [re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]?", name) for name in torch.cuda.get_arch_list()]
    if not any(int(found[2]) == major and int(found[3]) <= minor or found[1] == "compute" and
               (int(found[2]), int(found[3])) <= (major, minor) for found in kernels if found):
        return (f"the {torch.cuda.get_device_name()} has compute capability {major}.{minor}, and this torch has "
                f"kernels for {', '.join(torch.cuda.get_arch_list())} only; install another torch (pytorch.org)")
    return ""


def memory_format(device: torch.device) -> torch.memory_format:
    """Returns the layout of fast convolutions, NHWC; on MPS, where BatchNorm's gradients of it are wrong in some
    versions of torch, NCHW."""
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


def synchronize(device: torch.device | None) -> None:
    """Waits until the device has done what it was given: a clock read before that would show too little."""
    if device is not None and device.type in ("cuda", "mps"):
        getattr(torch, device.type).synchronize()


def free_on_gpu(device: torch.device) -> int:
    """Returns the free bytes of a GPU, with what torch has reserved there and does not use."""
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
