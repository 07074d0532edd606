"""A command line, checked word by word and parsed by Fire, before anything runs."""

import contextlib
import functools
import inspect
import io
import re
import shlex
from collections.abc import Callable
from typing import NamedTuple

import fire

from busfast.errors import UserError, choose

FireExit = fire.core.FireExit
# The values that stand in a line without a flag, in words.
LOOSE = {"inputs": "an image, folder or table", "what": "a word that says what to measure"}


def check(verbs: dict[str, Callable], argv: list[str]) -> None:
    """Refuses a misspelt verb or flag, a flag without its value, and anything left over; names the nearest.

    A verb's parameters without a default are needed; those of them that are not keyword-only need no flag.
    """
    verb = choose("verb", argv[0], verbs)
    parameters = inspect.signature(verbs[verb]).parameters
    needed = [name for name, one in parameters.items() if one.default is inspect.Parameter.empty]
    given, loose = {}, []
    words = iter(argv[1:])
    for word in words:
        if not word.startswith("-") or word == "-":  # standard input
            loose.append(word)
            continue
        flag, equals, value = word.lstrip("-").partition("=")
        flag = flag.replace("-", "_")
        if flag not in parameters or not word.startswith("--"):
            flags = [f"--{name}" for name in parameters]
            try:
                choose(f"flag of {verb}", word.partition("=")[0], flags or ["--help"])
            except UserError as error:
                raise UserError(f"{error} More: python -m busfast {verb} --help") from None
        if flag in given:
            raise UserError(f"--{flag} is given twice: {given[flag]} and {value}.")
        if not equals:
            value = "True" if parameters[flag].annotation is bool else next(words, "")
        if parameters[flag].annotation is bool:
            choose(f"value of --{flag}", value, ("True", "False"))
        if not value or (not equals and value.startswith("--")):
            raise UserError(f"--{flag} needs a value: --{flag}=VALUE.")
        given[flag] = value
    free = [name for name in needed if name not in given]
    allowed = sum(parameters[name].kind is not inspect.Parameter.KEYWORD_ONLY for name in free)
    if len(loose) > allowed:
        raise UserError(f"'{loose[allowed]}' is left over: every value has its flag, --FLAG=VALUE. "
                        f"More: python -m busfast {verb} --help")
    for name in free[len(loose):]:
        raise UserError(f"{verb} needs {LOOSE.get(name, f'--{name}=VALUE')}. More: python -m busfast {verb} --help")


class Call(NamedTuple):
    """A line that was parsed and not yet run (Fire would run anything callable by itself)."""

    verb: Callable
    args: tuple
    kwargs: dict


def parse(verbs: dict[str, Callable], argv: list[str]) -> Call:
    """Lets Fire parse a line that `check` has passed; returns what is to be called."""
    return _fire(verbs, [argv[0], *map(_quote, argv[1:])])


def command(verb: str, values: dict, function: Callable) -> str:
    """Returns the line that calls a verb's `function` with these values; what is its default is left out."""
    defaults = {name: one.default for name, one in inspect.signature(function).parameters.items()}
    words = [f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}") for name, value in values.items()
             if value != defaults[name]]
    return f"python -m busfast {shlex.join([verb, *words])}"


def show_help(verbs: dict[str, Callable], argv: list[str]) -> None:
    """Prints Fire's help page, without the short flags that busfast does not take."""
    text = io.StringIO()
    with contextlib.redirect_stderr(text), contextlib.redirect_stdout(text):
        with contextlib.suppress(fire.core.FireExit):
            _fire(verbs, [*argv, "--help"])
    page = re.sub(r"INFO: .*\n+", "", text.getvalue()).split("\nNOTES\n")[0]  # busfast takes values by flag alone
    page = re.sub(r"^    -\w, --", "    --", page, flags=re.MULTILINE)
    page = re.sub(r"Optional\[(\w+)\]", r"\1", re.sub(r" *Default: None\n", "", page))
    print(page.strip())


def _fire(verbs: dict[str, Callable], command: list[str]) -> Call:
    def recorded(verb):
        @functools.wraps(verb)
        def record(*args, **kwargs):
            parameters = inspect.signature(verb).parameters
            switches = {name: str(value) == "True" for name, value in kwargs.items()
                        if parameters[name].annotation is bool}
            return Call(verb, args, kwargs | switches)
        return record

    return fire.Fire({name: recorded(verb) for name, verb in verbs.items()}, command=command, name="busfast",
                     serialize=lambda call: None)


def _quote(word: str) -> str:
    """Makes Fire take a value as text (it would read 1e5 and 01 as numbers); types are checked with the values."""
    if not word.startswith("--"):
        return repr(word)
    flag, equals, value = word.partition("=")
    return flag + equals + (repr(value) if equals else "")
