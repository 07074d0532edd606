"""Imports on first use, and optional packages."""

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from busfast.errors import UserError


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
