"""Writes the pages of the reference that stand in the code: the command line, pipeline files, Python.

python -m docs.make_reference (`make docs` does it) writes docs/reference/cli.md, pipeline.md and python.md, of the
signatures and docstrings that `--help` and Python's help show. Git ignores them.
"""

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

from griffe import Docstring, DocstringSection

from busfast.cli import VERBS
from busfast.pipelines.config import Config

FOLDER = Path(__file__).parent / "reference"
PACKAGES = ("busfast.data", "busfast.pipelines", "busfast.models", "busfast.inference", "busfast.training",
            "busfast.results")
CLI = """# Command line

    python -m busfast VERB --FLAG=VALUE

or, wherever busfast is installed, `busfast VERB`. `--help` says the same as this page, `--version` the version. A flag
may be written `--lr-min` or `--lr_min`; flags without a value are switches. Everything is checked before anything
runs. How a command ends: [exit status](outside.md).
"""
PIPELINE = """# Pipeline files

`pipelines/NAME.yaml` holds what decides a run, in lines of `key: value`. A key that is not there has the default given
here; an unknown one is refused. `--pipeline=NAME` takes the file of that name in `pipelines/` here, or else the one
that busfast brings along (phantom, bus, btxrd). A path that ends in `.yaml` takes that file, such as a run's
`config.yaml`.
Flags of the [command line](cli.md) come before the file.

"""
PYTHON = """# Python

What a notebook or a script may rely on, package by package: `from busfast.data import read_table`. Each works without
those after it. [Work in a notebook](../notebook.md) uses them.
"""


def sections(thing: Callable) -> list[DocstringSection]:
    """Returns a docstring's text and its Args or Attributes, told apart by `kind.value`."""
    return Docstring(inspect.getdoc(thing) or "").parse("google", warnings=False)


def entry(name: str, kind: object, default: object, text: str) -> str:
    """One line of a definition list, and what it means below."""
    words = getattr(kind, "__name__", "") if isinstance(kind, type) else str(kind)
    for old, new in (("str", "text"), ("int", "whole number"), ("float", "number"), (" | None", ""),
                     ("tuple[text, ...]", "list"), ("tuple[whole number, ...]", "list of numbers"), ("bool", "switch")):
        words = words.replace(old, new)
    return f"`{name}` ({words}{default})\n:   {' '.join(text.split())}\n"


def cli_page() -> str:
    return "\n".join([CLI, *(line for verb in VERBS for line in verb_lines(verb))])


def verb_lines(verb: str) -> Iterator[str]:
    """One verb: its words, and an entry for each flag of its signature; its docstring must have them all."""
    yield f"## {verb}\n"
    told = {}
    for section in sections(VERBS[verb]):
        if section.kind.value == "text":
            yield section.value + "\n"
        elif section.kind.value == "parameters":
            told = {item.name: item.description for item in section.value}
    for name, one in inspect.signature(VERBS[verb]).parameters.items():
        needed = one.default is inspect.Parameter.empty
        loose = needed and one.kind is not inspect.Parameter.KEYWORD_ONLY
        yield entry(name.upper() if loose else f"--{name.replace('_', '-')}", one.annotation,
                    ", needed" if needed else f", {one.default}" if one.default not in (None, "", False) else "",
                    told[name])


def pipeline_page() -> str:
    """An entry for each key of `Config`."""
    told = {item.name: item.description for section in sections(Config) if section.kind.value == "attributes"
            for item in section.value}
    return PIPELINE + "\n".join(entry(field.name, field.type, f", {plain(field.default)}", told[field.name])
                                for field in dataclasses.fields(Config))


def plain(value: object) -> str:
    """A value as a pipeline file has it."""
    return f"[{', '.join(map(str, value))}]" if isinstance(value, tuple) else str(value) or "''"


def python_page() -> str:
    """What each package names in `__all__`; mkdocstrings puts signature and docstring there."""
    lines = [PYTHON]
    for package in PACKAGES:
        module = import_module(package)
        modules = vars(module).get("MODULES", dict.fromkeys(module.__all__, ""))  # of names imported when asked for
        lines += [f"## {package}\n\n{module.__doc__}\n"]
        lines += [f"::: {package}{modules[name]}.{name}\n" for name in module.__all__
                  if not modules[name].startswith("busfast.")]  # each is documented once, in its own package
    return "\n".join(lines)


if __name__ == "__main__":
    for name, page in (("cli", cli_page), ("pipeline", pipeline_page), ("python", python_page)):
        (FOLDER / f"{name}.md").write_text(page(), encoding="utf-8")
