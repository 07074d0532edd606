"""Writes the pages of the reference that are made from the code: the command line, pipeline files, Python.

python -m docs.make_reference (`make docs` does it) writes docs/reference/cli.md, pipeline.md and python.md from the
signatures and docstrings that `--help` and Python's help show. Git ignores them.
"""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import Field, fields
from importlib import import_module
from pathlib import Path

from griffe import Docstring, DocstringSection

from busfast.cli import VERBS
from busfast.pipelines.config import Config
from busfast.pipelines.settings import describe

FOLDER = Path(__file__).parent / "reference"
PACKAGES = ("busfast.data", "busfast.pipelines", "busfast.models", "busfast.inference", "busfast.training",
            "busfast.results")
CLI = """# Command line

    python -m busfast VERB --FLAG=VALUE

or, if busfast is installed, `busfast VERB`. `--help` shows the same as this page, `--version` the version. A flag may
be written `--lr-min` or `--lr_min`; switches take no value. Everything is checked before anything runs. How a command
ends: [exit status](outside.md).
"""
PIPELINE = """# Pipeline files

`pipelines/NAME.yaml` holds the settings of a run as `key: value` lines. A missing key has the default given here; an
unknown one is refused. `--pipeline=NAME` takes the file of that name in `pipelines/`, or else the one that comes with
busfast (phantom, bus, btxrd). A path that ends in `.yaml` takes that file, such as a run's `config.yaml`.
Flags of the [command line](cli.md) override the file.

"""
PYTHON = """# Python

The public names, package by package: `from busfast.data import read_table`. Each package works without those below it.
[Work in a notebook](../notebook.md) uses them.
"""


def sections(thing: Callable) -> list[DocstringSection]:
    """Returns the sections of a docstring, such as its text and its Args; `kind.value` says which is which."""
    return Docstring(inspect.getdoc(thing) or "").parse("google", warnings=False)


def entry(name: str, kind: object, details: str, text: str) -> str:
    """Returns an item of a definition list: name, type and details, and the text below."""
    words = getattr(kind, "__name__", "") if isinstance(kind, type) else str(kind)
    for old, new in (("str", "text"), ("int", "whole number"), ("float", "number"), (" | None", ""),
                     ("tuple[text, ...]", "list"), ("bool", "switch")):
        words = words.replace(old, new)
    return f"`{name}` ({words}{details})\n:   {' '.join(text.split())}\n"


def cli_page() -> str:
    return "\n".join([CLI, *(line for verb in VERBS for line in verb_lines(verb))])


def verb_lines(verb: str) -> Iterator[str]:
    """Yields a verb's heading and text, and an entry for each flag of its signature, all of which it must document."""
    yield f"## {verb}\n"
    descriptions = {}
    for section in sections(VERBS[verb]):
        if section.kind.value == "text":
            yield section.value + "\n"
        elif section.kind.value == "parameters":
            descriptions = {item.name: item.description for item in section.value}
    for name, parameter in inspect.signature(VERBS[verb]).parameters.items():
        default, required = parameter.default, parameter.default is inspect.Parameter.empty
        positional = required and parameter.kind is not inspect.Parameter.KEYWORD_ONLY
        details = ", required" if required else f", {default}" if default not in (None, "", False) else ""
        yield entry(name.upper() if positional else f"--{name.replace('_', '-')}", parameter.annotation, details,
                    descriptions[name])


def pipeline_page() -> str:
    """Returns the page with an entry for each setting of `Config`."""
    return PIPELINE + "\n".join(entry(item.name, item.type, value_range(item), describe(item))
                                for item in fields(Config))


def value_range(item: Field) -> str:
    """Returns the range of a number, such as ", 0 to 1"."""
    low, high = (item.metadata[end] for end in ("low", "high"))
    return "" if low is None else f", {low:,} to {high:,}"


def python_page() -> str:
    """Returns the page of all names in each package's `__all__`; mkdocstrings fills in signature and docstring."""
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
