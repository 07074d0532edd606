"""What a figure was measured on: processor, cores, memory, versions."""

import os
import platform
from collections.abc import Sequence
from pathlib import Path

import torch

from busfast import __version__
from busfast.processes import cores
from busfast.training.runs import PACKAGES, installed

CPU = torch.device("cpu")
PEERS = ("ffcv", "spdl", "webdataset")


def describe_machine(device: torch.device = CPU) -> str:
    """Returns processor, cores, memory, system and the device of the contenders in one line."""
    memory = f", {_memory() / 2**30:.0f} GiB" if _memory() else ""
    place = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
    where = "everything on the CPU" if device.type == "cpu" else f"on the {place}"
    return f"{_processor()}, {cores()} cores{memory}; {platform.platform(terse=True)}; {where}"


def describe_versions(packages: Sequence[str] = ()) -> str:
    """Returns the versions of busfast, Python and the installed ones of its packages, its peers and `packages`."""
    versions = {"busfast": __version__, "Python": platform.python_version()}
    versions |= installed((*PACKAGES, *PEERS, *packages))
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.is_file() else []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or platform.machine()


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return 0
