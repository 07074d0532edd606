"""What a sweep varies: --params -> Optuna's distributions; the values of a trial -> its configuration."""

import io
from collections.abc import Iterable
from contextlib import redirect_stdout
from dataclasses import replace
from typing import Any, get_type_hints

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from busfast.errors import UserError, choose
from busfast.pipelines.config import AUGMENTATIONS, OPTIMIZERS, SCHEDULES, Config
from busfast.pipelines.settings import convert, format_value

LOG = ("lr", "lr_min", "wd")  # drawn on a logarithmic scale
STEP = 32  # pixels, divisible by five strides of 2
# Small models, which a few thousand images can fine-tune.
ARCHS = ("efficientnet_b0", "tf_efficientnet_lite0", "mobilenetv3_large_100", "resnet18")


def _sizes(config: Config) -> list[int]:
    step = max(STEP, round(config.size / 4 / STEP) * STEP)
    near = (round((config.size + sign * step) / STEP) * STEP for sign in (-1, 1))
    return sorted({config.size, *(side for side in near if STEP <= side <= 2048)})


# Key that may be varied -> its default range (a tuple) or choices (a list).
SPACES = {
    "lr": lambda config: (max(config.lr / 10, config.lr_min), config.lr * 10),
    "lr_min": lambda config: (config.lr / 10_000, config.lr / 10),
    "wd": lambda config: (1e-6, 1e-2),
    "dropout": lambda config: (0.0, 0.5),
    "size": _sizes,
    "bs": lambda config: sorted({max(2, config.bs // 2), config.bs, config.bs * 2}),
    "arch": lambda config: list(dict.fromkeys([config.arch, *ARCHS])),
    "freeze": lambda config: sorted({0, 2, 4, config.freeze}),
    "augment": lambda config: list(dict.fromkeys([format_value(config.augment), *AUGMENTATIONS])),
    "opt": lambda config: list(dict.fromkeys([config.opt, *OPTIMIZERS])),
    "schedule": lambda config: list(dict.fromkeys([config.schedule, *SCHEDULES])),
    "label_smoothing": lambda config: (0.0, 0.2),
    "mixup": lambda config: (0.0, 0.5),
}


def read_space(params: str, config: Config) -> dict[str, BaseDistribution]:
    """Reads --params: keys separated by commas, each with or without values, such as `lr=1e-4:1e-2` or `bs=16/32/64`.
    Without values, a key is varied around that of `config`. UserError: a key is unknown or repeated, a value wrong."""
    space: dict[str, BaseDistribution] = {}
    for item in filter(None, map(str.strip, params.split(","))):
        key, equals, text = item.partition("=")
        choose("key of --params", key, SPACES)
        if key in space:
            raise UserError(f"--params names {key} twice.")
        space[key] = _read_values(key, text) if equals else _default_values(key, config)
    if not space:
        raise UserError(f"--params='{params}' names nothing to vary. Choose from: {', '.join(SPACES)}.")
    for key, distribution in space.items():
        for value in ends(distribution):
            try:
                lr = {"lr": ends(space["lr"])[0]} if key == "lr_min" and "lr" in space else {}  # the lowest limit
                lr_min = {"lr_min": 0} if key == "lr" and "lr_min" in space else {}  # checked by itself
                apply(config, {key: value, **lr, **lr_min})
            except UserError as error:
                raise UserError(f"--params, {key}: {error}") from None
    return space


def _read_values(key: str, text: str) -> BaseDistribution:
    """A range LOW:HIGH or choices A/B/C."""
    kind = str if key == "augment" else get_type_hints(Config)[key]  # a level
    if ":" in text and kind is not str:
        low, high = (convert(f"--params, {key}", value, kind) for value in (text.split(":") + [""])[:2])
        if not low < high or text.count(":") > 1:
            raise UserError(f"--params, {key}: {text} is not a range: write LOW:HIGH, the lower value first.")
        if key in LOG and low <= 0:
            raise UserError(f"--params, {key}: {text} begins at {low}, but {key} is varied by factors: begin above 0.")
        return _range(key, low, high)
    values = [convert(f"--params, {key}", value.strip(), kind) for value in text.split("/")]
    if len(set(values)) < max(2, len(values)):
        raise UserError(f"--params, {key}: '{text}' does not name two or more different values: "
                        + (f"write {key}=A/B" if kind is str else f"write {key}=LOW:HIGH or {key}=A/B")
                        + f", or set one value with --{key}=VALUE.")
    return CategoricalDistribution(values)


def _range(key: str, low, high) -> BaseDistribution:
    if isinstance(low, float):
        return FloatDistribution(low, high, log=key in LOG)
    return IntDistribution(low, high - (high - low) % STEP, step=STEP) if key == "size" else IntDistribution(low, high)


def _default_values(key: str, config: Config) -> BaseDistribution:
    values = SPACES[key](config)
    if isinstance(values, tuple):
        return _range(key, *map(float, values))
    return CategoricalDistribution(values)


def ends(distribution: BaseDistribution) -> tuple:
    """Returns all choices, or the lowest and the highest value."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    return distribution.low, distribution.high


def apply(config: Config, values: dict[str, Any]) -> Config:
    """Returns the configuration of a trial: the pipeline's own, with values of the space; UserError if out of range."""
    return replace(config, **values)


def own_values(space: dict[str, BaseDistribution], config: Config) -> tuple[dict[str, Any], list[str]]:
    """Returns the pipeline's own values of the varied keys, and the keys whose own value is outside the space."""
    values = {key: format_value(config.augment) if key == "augment" else getattr(config, key) for key in space}
    outside = []
    for key, distribution in space.items():
        if isinstance(distribution, CategoricalDistribution):
            inside = values[key] in distribution.choices
        else:
            inside = distribution.low <= values[key] <= distribution.high
            inside = inside and not (distribution.step and (values[key] - distribution.low) % distribution.step)
        outside += [] if inside else [key]
    return values, outside


def format_distribution(distribution: BaseDistribution) -> str:
    """Returns "0.0001 to 0.01, by factors" or "16, 32 or 64"."""
    if isinstance(distribution, CategoricalDistribution):
        *first, last = map(str, distribution.choices)
        return f"{', '.join(first)} or {last}"
    return f"{distribution.low:g} to {distribution.high:g}" + (", by factors" if distribution.log else "")


def format_values(values: dict[str, Any]) -> str:
    """Returns the values of a trial as text."""
    return "  ".join(f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
                     for key, value in values.items())


def find_random_starts(archs: Iterable[str], config: Config) -> dict[str, str]:
    """Returns the models that would start from random weights although others do not, and why: they cannot be compared.
    Makes each model once."""
    from busfast.models.weights import make_model

    if config.weights == "none":
        return {}
    with redirect_stdout(io.StringIO()):  # printed again by each trial
        starts = {arch: make_model(arch, config.weights, len(config.classes))[1].text for arch in archs}
    random = {arch: text for arch, text in starts.items() if text.startswith("random")}
    return random if len(random) < len(starts) else {}
