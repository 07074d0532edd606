"""A pipeline file (pipelines/NAME.yaml), read: where the settings of a training come from."""

import os
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from busfast.errors import UserError, choose, suggest_path
from busfast.pipelines.config import PRESETS, Config
from busfast.pipelines.settings import convert, format_value
from busfast.yamlfile import read_yaml

FOLDER = Path("pipelines")
BUILTIN = Path(__file__).parent / "builtin"  # in a clone a link to the house's pipelines/, in a wheel its files
DEFAULT = "phantom"
# Keys of version 0.1 -> why they are gone; its files hold them, mostly unset.
REMOVED = {"progressive": "training at sizes other than `size` saved no time at an equal AUC (docs/performance.md)"}


def load_config(pipeline: str = "", preset: str | None = None, **overrides: Any) -> tuple[str, Config]:
    """Reads a pipeline file and puts the given values over its own.

    Args:
        pipeline: a name (`pipelines/NAME.yaml` here, else busfast's own of that name) or the path of a YAML file,
            a run's `config.yaml` included. "": named after the data folder if one is given (only a file here, as
            nobody would expect a built-in one), else "phantom".
        preset: a key of `PRESETS`; its values go over those of the file and under `overrides`.
        overrides: keys of `Config`; None leaves the file's value.

    Returns:
        The pipeline's name, which names the folders of its runs, and the checked configuration.

    Raises:
        UserError: no such file, an unknown key, a value of the wrong type or out of range.
    """
    overrides = {key: value for key, value in overrides.items() if value is not None}
    name, path, values = _read(pipeline, overrides.get("data"))
    if "data" in overrides:
        values.pop("source", None)
    try:
        for key in values:
            choose("key", str(key), [item.name for item in fields(Config)])
        from_file = Config(**values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return name, Config(**(values | _preset_values(preset, from_file, overrides) | overrides))


def _preset_values(preset: str | None, config: Config, overrides: dict[str, Any]) -> dict[str, Any]:
    """Returns what a preset sets: no freezing if the epochs that the user asks for are over before it would begin."""
    if not preset:
        return {}
    recipe = PRESETS[choose("preset", preset, PRESETS)](config)
    never = convert("epochs", overrides.get("epochs", recipe["epochs"]), int) <= recipe["freeze_after"]
    return recipe | ({"freeze": 0, "freeze_after": 0} if never and not {"freeze", "freeze_after"} & set(overrides)
                     else {})


def describe_source(pipeline: str = "", preset: str | None = None, **given: Any) -> str:
    """Returns where `load_config` takes settings from that are not `given` by flags, for the screen."""
    given = {key: value for key, value in given.items() if value is not None}
    _, path, values = _read(pipeline, given.get("data"))
    if not os.path.isfile(path):
        found = f"the default ones, as there is no {path}"
    else:
        found = f"busfast's own {path.name}" if path.parent == BUILTIN else str(path)
    if not preset:
        return found
    config = Config(**values)
    whole, used = PRESETS[preset](config), _preset_values(preset, config, given)
    return f"{found}, changed by --preset={preset}" + ("" if used == whole else (
        f", without its freezing, which would begin after epoch {whole['freeze_after']} of {given['epochs']}"))


def name_origins(message: str, pipeline: str = "", preset: str | None = None, **given: Any) -> str:
    """Says where the settings come from that a refusal names and that no flag gave.

    Args:
        message: of the refusal; it names a setting as NAME=VALUE.
        pipeline, preset: as for `load_config`.
        given: the flags; None: not given.

    Returns:
        Such as " freeze_after=1 comes from --preset=fast."; "" if there is nothing to say.
    """
    given = {key: value for key, value in given.items() if value is not None}
    try:
        _, path, values = _read(pipeline, given.get("data"))
        from_file = Config(**values)
        recipe = _preset_values(preset, from_file, given)
    except (UserError, TypeError):  # it is the file that is refused, with its name
        return ""
    found = []
    for name in (item.name for item in fields(Config) if item.name not in given):
        value = recipe.get(name, getattr(from_file, name))
        if any(re.search(rf"(?<![\w-]){name}={re.escape(text)}(?!\w)", message)
               for text in {str(value), format_value(value)} - {""}):
            origin = f"comes from --preset={preset}" if name in recipe else f"comes from {path}" if name in values \
                else "is the default"
            found.append(f" {name}={format_value(value)} {origin}.")
    return "".join(found)


def _read(pipeline: str, data: str | None) -> tuple[str, Path, dict[str, Any]]:
    """Reads the pipeline file that `load_config` takes; returns the pipeline's name, the file, which may be missing,
    and its values, without keys that were removed since version 0.1."""
    name, path, values = _read_named(pipeline) if pipeline else _read_default(data)
    for key, reason in REMOVED.items():
        if value := values.pop(key, None):
            raise UserError(f"{path}: {key}={value} is no longer possible: {reason}. Remove that line.")
    return name, path, values


def _read_named(pipeline: str) -> tuple[str, Path, dict[str, Any]]:
    """Reads the file that is asked for."""
    path = Path(pipeline) if pipeline.endswith((".yaml", ".yml")) else _find_file(pipeline)
    if not os.path.isfile(path):
        if path.parent == FOLDER:
            choose("pipeline", pipeline, sorted({file.stem for folder in (FOLDER, BUILTIN)
                                                 for file in folder.glob("*.yaml")}))
        near = suggest_path(path, lambda one: os.path.isfile(one) and one.suffix in (".yaml", ".yml"))
        raise UserError(f"There is no pipeline file {path}.{near} Name a file in {FOLDER}/, or the path of one: "
                        "--pipeline=FILE.")
    values = read_yaml(path)
    record = values.pop("run", None) or {}  # of a run's config.yaml
    if not isinstance(record, dict):
        raise UserError(f"{path}: run={record} is not the record of a run. Remove that line.")
    return folder_name(str(record.get("pipeline") or path.stem)), path, values


def _read_default(data: str | None) -> tuple[str, Path, dict[str, Any]]:
    """Reads the file named after the data folder, if it is there, or the default one."""
    name = name_after(Path(data)) if data else DEFAULT
    path = FOLDER / f"{name}.yaml" if data else _find_file(name)
    values = read_yaml(path) if os.path.isfile(path) else {}
    if not data and not values:
        raise UserError(f"There is no {path} here. Run from the folder that holds pipelines/, or name your "
                        "images: --data=FOLDER.")
    return name, path, values


def _find_file(name: str) -> Path:
    """Returns the pipeline file of that name: the one here, else the one that busfast brings along."""
    local, builtin = FOLDER / f"{name}.yaml", BUILTIN / f"{name}.yaml"
    return builtin if os.path.isfile(builtin) and not os.path.isfile(local) else local


def name_after(data: Path) -> str:
    """Names a pipeline after the data folder, or after its table if that is not called table.csv."""
    data = data.resolve()
    folder = data.parent if data.name == "table.csv" else data
    return folder_name(folder.stem if folder.suffix == ".csv" else folder.name)


def folder_name(name: str) -> str:
    """Turns a name into a safe folder name: no separators, not hidden, not a parent."""
    return re.sub(r"[^\w.-]+", "_", name).lstrip(".") or "unnamed"
