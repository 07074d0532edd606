"""The settings of `Config` as flags of a verb, and the flags that were given as a checked configuration."""

import functools
import inspect
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

from busfast.errors import UserError, check_range, choose
from busfast.pipelines.config import Config
from busfast.pipelines.pipeline_file import load_config
from busfast.pipelines.settings import convert, describe

FLAGS = tuple(item.name for item in fields(Config) if item.metadata["flag"])
MODEL = ("bs", "device", "threads")  # of the verbs that run a model


def without(*names: str) -> tuple[str, ...]:
    """Returns the settings that are flags, but for those that a verb takes from the pipeline file only."""
    return tuple(name for name in FLAGS if name not in names)


def with_settings(names: Sequence[str] = FLAGS, **defaults: str) -> Callable[[Callable], Callable]:
    """Returns a decorator that turns a verb's `**settings` into a flag for each setting.

    `--help`, the checks and the reference read the signature and docstring that it makes. The flags have the order of
    the docstring, in which those of the settings replace the line `settings: ...`.

    Args:
        names: the settings.
        defaults: name of a setting -> what its default is in this verb, for the help.
    """
    items = [item for item in fields(Config) if item.name in names]
    lines = [f"    {item.name}: {describe(item, defaults.get(item.name))}" for item in items]

    def decorate(verb: Any) -> Callable:
        parameters = dict(inspect.signature(verb).parameters)
        del parameters["settings"]
        for item in items:
            kind = item.type if item.type in (int, float) else str  # names are separated by commas
            parameters[item.name] = inspect.Parameter(item.name, inspect.Parameter.KEYWORD_ONLY, default=None,
                                                      annotation=kind)
        verb.__doc__ = re.sub(r"^    settings: .*$", "\n".join(lines), inspect.cleandoc(verb.__doc__),
                              flags=re.MULTILINE)
        order = re.findall(r"^    (\w+): ", verb.__doc__, re.MULTILINE)
        verb.__signature__ = inspect.Signature(sorted(parameters.values(),
                                                      key=lambda parameter: order.index(parameter.name)))
        return verb
    return decorate


def with_pixel_limit(verb: Callable) -> Callable:
    """Adds the flag --max_pixels to a verb that reads images: no larger image is decoded, in all its processes."""
    @functools.wraps(verb)
    def limited(*args: Any, max_pixels: Any = None, **kwargs: Any) -> str | None:
        if max_pixels is not None:
            limit = convert("max_pixels", max_pixels, int)
            check_range("max_pixels", limit, 1, 10**10)
            from busfast.data.images import MAX_PIXELS, set_pixel_limit

            os.environ[MAX_PIXELS] = str(limit)
            set_pixel_limit(limit)
        return verb(*args, **kwargs)

    parameters = [*inspect.signature(verb).parameters.values(),
                  inspect.Parameter("max_pixels", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=int)]
    limited.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    head, raises, rest = inspect.cleandoc(verb.__doc__ or "").partition("\n\nRaises:")
    limited.__doc__ = (f"{head}\n    max_pixels: refuse images of more pixels, which may be damaged or an attack. "
                       f"Default: 178,956,970 (Pillow's limit).{raises}{rest}")
    return limited


def read_keys(text: str | None, settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings of flags and of --set (KEY=VALUE, separated by commas; a value may hold commas, too).
    UserError: it is not of that form, an unknown key, or one that is given twice."""
    given = dict(settings)
    if text is None:
        return given
    first, *rest = re.split(r"(?:^|,)\s*(\w+)=", text)
    if first.strip() or not rest:
        raise UserError(f"--set={text} is not KEY=VALUE, such as --set=wd=0.01,dropout=0.3.")
    for key, value in zip(rest[::2], rest[1::2], strict=True):
        choose("key of --set", key, [item.name for item in fields(Config)])
        if key in given and given[key] is not None:
            raise UserError(f"{key} is given twice: {given[key]} and, in --set, {value}.")
        given[key] = value
    return given


def flatten(arguments: dict[str, Any]) -> dict[str, Any]:
    """Returns the `locals()` of a verb with `**settings` as flag -> value."""
    return {name: value for name, value in arguments.items() if name != "settings"} | arguments["settings"]


def configure(pipeline: str | None, **flags: Any) -> tuple[str, Config]:
    """Returns the pipeline's name and its configuration, which names a data folder.

    Raises:
        UserError: wrong flags or file, or no data folder.
    """
    name, config = load_config(pipeline or "", **flags)
    if not config.data:
        raise UserError(f"The pipeline '{name}' names no data folder. Add a line `data: FOLDER` to its file, or give "
                        "--data=FOLDER.")
    return name, config


def model_flags(**flags: Any) -> dict[str, Any]:
    """Checks flags of a verb that runs a model; leaves out those that were not given."""
    given = {key: value for key, value in flags.items() if value is not None}
    checked = Config(**given)
    return {key: getattr(checked, key) for key in given}
