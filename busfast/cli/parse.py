"""Parses a command line with Fire, after checking every argument; nothing runs before that."""

import contextlib
import functools
import inspect
import io
import re
import shlex
import shutil
import textwrap
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import fire

from busfast.errors import UserError, choose, suggest
from busfast.pipelines.config import Config
from busfast.training.runs import RESULTS

FireExit = fire.core.FireExit
# What other tools call busfast's flags.
ELSEWHERE = {"imgsz": "size", "img_size": "size", "image_size": "size", "batch": "bs", "batch_size": "bs",
             "model": "arch", "model_name": "arch", "backbone": "arch", "lr0": "lr", "learning_rate": "lr",
             "weight_decay": "wd", "drop": "dropout", "drop_rate": "dropout", "optimizer": "opt", "optim": "opt",
             "sched": "schedule", "scheduler": "schedule", "pretrained": "weights", "workers": "threads",
             "num_workers": "threads", "dataset": "data", "data_dir": "data", "path": "data", "num_epochs": "epochs",
             "n_epochs": "epochs", "aug": "augment", "augmentation": "augment", "smoothing": "label_smoothing",
             "warmup_epochs": "warmup", "clip_grad": "clip", "max_epochs": "epochs", "input_size": "size",
             "resolution": "size", "rotation": "rotate", "degrees": "rotate", "fliplr": "hflip", "flipud": "vflip",
             "early_stopping": "patience", "test_size": "test_share", "val_size": "valid_share",
             "val_share": "valid_share", "num_folds": "folds", "n_folds": "folds", "n_splits": "folds",
             "positive_class": "positive", "checkpoint": "weights", "output": "out", "output_dir": "out",
             "run_name": "run", "random_state": "seed", "grad_accum_steps": "accumulate", "model_ema_decay": "ema",
             "criterion": "loss"}
# Flags that a word without one may be meant for, and what tells so.
NAMED: dict[str, Callable[[Path], bool]] = {
    "run": lambda path: (RESULTS / path / "config.yaml").is_file(), "data": Path.exists}
POSITIONAL = {"inputs": "an image, folder or table", "what": "the name of a benchmark"}  # arguments without a flag


def check(verbs: dict[str, Callable], argv: list[str]) -> None:
    """Checks a command line before Fire parses it, as Fire runs a function before it rejects a misspelt flag.

    Parameters of a verb without a default are required; those of them that are not keyword-only are given without a
    flag, `*inputs` once or more.

    Raises:
        UserError: a misspelt verb or flag (with the nearest), a flag without a value or given twice, a missing or an
            unexpected argument.
    """
    verb = choose("verb", argv[0], verbs)
    parameters = dict(inspect.signature(verbs[verb]).parameters)
    repeated = [name for name, one in parameters.items() if one.kind is inspect.Parameter.VAR_POSITIONAL]
    for name in repeated:  # it has no flag
        del parameters[name]
    more = f"More: python -m busfast {verb} --help"
    given, positional = {}, []
    words = iter(argv[1:])
    for word in words:
        if not word.startswith("-") or word == "-":  # standard input
            positional.append(word)
            continue
        flag, equals, value = word.lstrip("-").partition("=")
        flag = flag.replace("-", "_")
        if flag not in parameters or not word.startswith("--"):
            unknown = f"Unknown flag of {verb} '{word.partition('=')[0]}'."
            ours = ELSEWHERE.get(flag, flag)
            if ours in parameters and word.startswith("--"):
                raise UserError(f"{unknown} Did you mean '--{ours}'? {more}")
            if ours in (item.name for item in fields(Config)) and "set" in parameters:
                raise UserError(f"{unknown} It is a key without a flag: --set={ours}=VALUE. {more}")
            if ours in (item.name for item in fields(Config)) and "labels" in parameters:
                raise UserError(f"{unknown} The folds of --labels take it from a pipeline file: write {ours}: VALUE "
                                f"into it and name it, --pipeline=FILE. {more}")
            hint = suggest(flag, parameters).replace("'", "'--", 1)
            raise UserError(f"{unknown}{hint} {more}")
        if flag in given:
            raise UserError(f"--{flag} is given twice: {given[flag]} and {value}.")
        is_switch = parameters[flag].annotation is bool
        if not equals:
            value = "True" if is_switch else next(words, "")
        if is_switch:
            choose(f"value of --{flag}", value, ("True", "False"))
        if not value or (not equals and value.startswith("--")):
            raise UserError(f"--{flag} needs a value: --{flag}=VALUE.")
        given[flag] = value
    missing = [name for name, parameter in parameters.items()
               if parameter.default is inspect.Parameter.empty and name not in given]
    missing = repeated + missing
    allowed = sum(name in repeated or parameters[name].kind is not inspect.Parameter.KEYWORD_ONLY for name in missing)
    if len(positional) > allowed and not repeated:
        word = positional[allowed]
        flag = next((name for name, names_it in NAMED.items() if name in parameters and names_it(Path(word))), "")
        hint = f" Did you mean '--{flag}={word}'?" if flag else ""
        raise UserError(f"Unexpected argument '{word}': every value has its flag, --FLAG=VALUE.{hint} {more}")
    for name in missing[len(positional):]:
        raise UserError(f"{verb} needs {POSITIONAL.get(name, f'--{name}=VALUE')}. {more}")


class Call(NamedTuple):
    """A verb and its arguments, parsed and not yet run (Fire would run anything callable)."""

    verb: Callable
    args: tuple
    kwargs: dict


def parse(verbs: dict[str, Callable], argv: list[str]) -> Call:
    """Lets Fire parse a command line that `check` has passed; returns what to call."""
    return _fire(verbs, [argv[0], *map(_quote, argv[1:])])


def command(verb: str, values: dict, function: Callable) -> str:
    """Returns the command line that calls a verb's `function` with these values; defaults are left out."""
    flags = [f"--{name.replace('_', '-')}" + ("" if values[name] is True else f"={values[name]}")
             for name, parameter in inspect.signature(function).parameters.items()
             if name in values and values[name] != parameter.default]
    return f"python -m busfast {shlex.join([verb, *flags])}"


def show_help(verbs: dict[str, Callable], argv: list[str]) -> None:
    """Prints Fire's help page, without what does not hold here: short flags, values of switches, `None`."""
    text = io.StringIO()
    with contextlib.redirect_stderr(text), contextlib.redirect_stdout(text):
        with contextlib.suppress(FireExit):
            _fire(verbs, [*argv, "--help"])
    page = re.sub(r"INFO: .*\n+", "", text.getvalue()).split("\nNOTES\n")[0]  # busfast takes values by flag only
    page = re.sub(r"^    -\w, --", "    --", page, flags=re.MULTILINE)
    page = re.sub(r"=\w+\n *Type: bool\n *Default: False\n", "\n", page)
    page = re.sub(r"Optional\[(\w+)\]", r"\1", re.sub(r" *Default: (None|'')\n", "", page))
    width = max(60, min(shutil.get_terminal_size((120, 0)).columns, 120))
    for line in page.strip().splitlines():
        indent = " " * (len(line) - len(line.lstrip()))
        print(textwrap.fill(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False))


def _fire(verbs: dict[str, Callable], argv: list[str]) -> Call:
    def recorded(verb: Callable) -> Callable:
        @functools.wraps(verb)
        def record(*args, **kwargs):
            parameters = inspect.signature(verb).parameters
            switches = {name: str(value) == "True" for name, value in kwargs.items()
                        if parameters[name].annotation is bool}
            return Call(verb, args, kwargs | switches)
        # One line per argument: Fire would take the start of a continued line for the name of another one.
        record.__doc__ = re.sub(r"\n {8,}", " ", inspect.cleandoc(verb.__doc__ or ""))
        return record

    return fire.Fire({name: recorded(verb) for name, verb in verbs.items()}, command=argv, name="busfast",
                     serialize=lambda call: None)


def _quote(word: str) -> str:
    """Makes Fire read a value as text (it would read 1e5 and 01 as numbers); `Config` converts it."""
    if not word.startswith("--"):
        return repr(word)
    flag, equals, value = word.partition("=")
    return flag + equals + (repr(value) if equals else "")
