"""A setting of a run: its type, default, range, choices and line of help, once; whatever takes it reads them here."""

import math
from collections.abc import Callable, Iterable
from dataclasses import Field, field, fields
from pathlib import Path
from typing import Any, get_args

from busfast.errors import UserError, check_range, choose


def setting(default: Any, help: str, *, low: float | None = None, high: float | None = None,
            choices: Iterable[str] | Callable[[Any], Iterable[str]] | None = None, flag: bool = True) -> Any:
    """Returns a dataclass field for a value that a pipeline file, a flag or Python gives.

    Args:
        default: the value if none is given.
        help: one line for `--help` and the reference, without the default.
        low, high: the smallest and largest value allowed; every number has them.
        choices: the values allowed, or a function that returns them for a configuration (whose earlier fields are
            checked by then); of a tuple, those of each item.
        flag: whether the verbs that train take it as a flag, too.
    """
    return field(default=default, metadata={"help": help, "low": low, "high": high, "choices": choices, "flag": flag})


def check_settings(config: Any) -> None:
    """Converts the fields of a frozen dataclass to their types, and checks them.
    UserError: a value of the wrong type, out of range or not among the choices."""
    for item in fields(config):
        value = convert(item.name, getattr(config, item.name), item.type)
        object.__setattr__(config, item.name, value)
        choices, low, high = (item.metadata[key] for key in ("choices", "low", "high"))
        if choices is not None:
            choices = choices(config) if callable(choices) else choices
            for chosen in value if isinstance(value, tuple) else (value,):
                choose(item.name.removesuffix("s") if isinstance(value, tuple) else item.name, chosen, choices)
        if low is not None:
            check_range(item.name, value, low, high)


def convert(name: str, value: Any, kind: Any) -> Any:
    """Converts a value from YAML, the command line or Python to `kind`: str, int, float or tuple[..., ...].
    Raises UserError if it is not of that kind."""
    if kind is str and isinstance(value, str | Path):
        return str(value)
    if get_args(kind):
        items = value.split(",") if isinstance(value, str) else value
        if isinstance(items, list | tuple):
            item_kind = get_args(kind)[0]
            return tuple(convert(name, str(item).strip(), item_kind) for item in items if str(item).strip())
    elif kind in (int, float) and not isinstance(value, bool):
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number) and (kind is float or number == int(number)):
            return kind(number)
    wanted = {int: "a whole number", float: "a number", str: "text"}.get(kind, "names separated by commas")
    raise UserError(f"{name}={value} is not {wanted}.")


def format_value(value: Any) -> str:
    """Returns a value as a flag has it: the items of a tuple separated by commas."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def describe(item: Field, default: str | None = None) -> str:
    """Returns a setting's line of help with its choices and default, or another default in words."""
    choices, default = item.metadata["choices"], default or format_value(item.default)
    listed = f": {', '.join(choices)}" if isinstance(choices, tuple) else ""
    return f"{item.metadata['help']}{listed}." + (f" Default: {default}." if default else "")
