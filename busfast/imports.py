"""Imports that wait until they are used, and packages that may be absent."""

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from busfast.errors import UserError


def lazy_names(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Returns a package's `__getattr__`, which imports a public name when it is first asked for (PEP 562).

    fastai, timm and torch take seconds to import; `--help` needs none of them.

    Args:
        package: the package's `__name__`.
        modules: public name -> module that defines it, full or relative to the package (".config").
    """
    def get(name: str) -> Any:
        if name in modules:
            return getattr(import_module(modules[name], package), name)
        raise AttributeError(f"module '{package}' has no attribute '{name}'")
    return get


def require_package(module: str, purpose: str, install: str) -> None:
    """Refuses to begin what an absent optional package would end later; imports nothing.

    Args:
        module: as Python imports it, such as "optuna".
        purpose: the start of the message, such as "A sweep needs Optuna".
        install: the command that installs it. It names packages, not busfast[extra], which a package index might hold
            from somebody else.

    Raises:
        UserError: the package is not installed.
    """
    try:
        found = find_spec(module)
    except ModuleNotFoundError:  # not even the package that it would be in
        found = None
    if found is None:
        raise UserError(f"{purpose}: {install}")
