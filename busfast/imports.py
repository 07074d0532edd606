"""Imports that wait until they are used."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


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
