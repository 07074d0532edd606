"""Imports on first use, imports that take seconds, and optional packages."""

import gc
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader, find_spec
from pathlib import Path
from typing import Any

from busfast.errors import UserError

GPUS = tuple(Path("/dev", name) for name in ("nvidiactl", "nvmap", "dxg", "kfd", "dri"))  # NVIDIA, Jetson, WSL, others


def lazy_names(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Returns a package's `__getattr__`, which imports a public name on first use (PEP 562).

    fastai, timm and torch take seconds to import; `--help` needs none of them.

    Args:
        package: the package's `__name__`.
        modules: public name -> its module, absolute or relative to the package (".config").
    """
    def get(name: str) -> Any:
        if name in modules:
            return getattr(import_module(modules[name], package), name)
        raise AttributeError(f"module '{package}' has no attribute '{name}'")
    return get


class _Later(MetaPathFinder):
    """Finds Weights & Biases as a module that runs when something in it is first used."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname == "wandb" else None
        if spec is not None and spec.loader is not None:
            spec.loader = LazyLoader(spec.loader)
        return spec


@contextmanager
def heavy_imports() -> Iterator[None]:
    """Spares what torch, timm and fastai, imported in the block, need not do; changes nothing if fastai is loaded.

    Python searches for garbage again and again while they are imported, though modules are never garbage: a fifth of
    the time. Later searches leave out all that is there by then. And timm imports wandb wherever it is installed, for
    what busfast does not use: it runs only if --tracker asks for it, after its settings are made. Torch's compiler,
    which torchvision imports, loads Triton, a compiler for GPUs that takes 80 MB: without a GPU this process lacks it,
    as a torch for CPUs does.
    """
    if "fastai" in sys.modules or not gc.isenabled():
        yield
        return
    tell, said = sys.stderr.isatty(), "loading torch, timm and fastai ..."  # seconds in which nothing else is printed
    if tell:
        print(said, end="\r", file=sys.stderr, flush=True)
    if sys.platform == "linux" and not any(path.exists() for path in GPUS):
        sys.modules.setdefault("triton", None)  # type: ignore[arg-type]  # importing it is an ImportError
    later = _Later()
    sys.meta_path.insert(0, later)
    gc.disable()
    try:
        yield
    finally:
        sys.meta_path.remove(later)
        gc.freeze()
        gc.enable()
        if tell:
            print(" " * len(said), end="\r", file=sys.stderr, flush=True)


def is_installed(module: str) -> bool:
    """Returns whether Python could import a module, such as "optuna" or "nvidia.dali"; imports at most its parents."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that it would be in
        return False


def require_package(module: str, purpose: str, install: str) -> None:
    """Checks that an optional package is installed, before work starts; does not import it.

    Args:
        module: its import name, such as "optuna".
        purpose: start of the message, such as "A sweep needs Optuna".
        install: the command that installs it. It names the packages, not busfast[extra]: somebody else may own the name
            busfast on a package index.

    Raises:
        UserError: the package is not installed.
    """
    if not is_installed(module):
        raise UserError(f"{purpose}: {install}")
