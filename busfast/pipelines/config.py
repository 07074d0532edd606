"""A pipeline file (pipelines/NAME.yaml) read and checked: one experiment, every choice in one flat list of keys."""

import dataclasses
import math
import os
import re
from collections.abc import Hashable
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml

from busfast.data.generators import GENERATORS
from busfast.data.split import SPLITS
from busfast.data.table import CLASSES
from busfast.errors import UserError, choose

FOLDER = Path("pipelines")
BUILTIN = Path(__file__).parent / "builtin"  # in a clone a link to the house's pipelines/, in a wheel its files
DEFAULT = "phantom"
LOADERS = ("auto", "dali", "torchvision")
DEVICES = ("auto", "cuda", "mps", "cpu")
RESIZES = ("squash", "crop", "pad")
CHANNELS = ("rgb", "gray")
# Time to quality: what few epochs need is more steps (smaller batches) that are smaller; the first stages, which take
# the most time, have learned what they can from the images after one of them (Brock et al. 2017, "FreezeOut", arXiv
# 1706.04983). Growing sizes, or training at other sizes than the model is used at, cost more AUC than it saved time
# (docs/performance.md).
PRESETS = {"fast": lambda size: {"epochs": 4, "size": max(32, size * 6 // 7 // 8 * 8), "bs": 16, "lr": 6e-4,
                                 "freeze": 4, "freeze_after": 1}}
MOST = 200_000  # bytes of a YAML file; PyYAML takes about a second for 100,000
ITEMS, DEPTH, LONGEST = 50_000, 20, 400  # values in it with all aliases written out, levels, signs of a number
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
REMOVED = {"progressive": "training at sizes other than `size` saved no time at an equal AUC (docs/performance.md)"}
MEASURES = ("train_loss", "val_loss", "val_acc", "macro_auc")


@dataclass(frozen=True)
class Config:
    """Everything that decides a run. Defaults are those of the experiment that busfast retells.

    Attributes:
        data: folder with `table.csv` and the images.
        source: what makes the data folder when it is not there yet (a key of `GENERATORS`; "": nothing does).
        classes: the labels, in the model's order.
        splits: what `--split=all` trains, in turn.
        holdout: centers held out as test part by `center_holdout` (empty: chosen from the table).
        folds: number of folds of `kfold`.
        size: side of the model's square input, pixels.
        resize: "squash", "crop" or "pad"; see `busfast.data.images.resize_image`.
        channels: "rgb", or "gray" to drop color.
        hflip: probability of a flip, left to right, in training, 0 to 1.
        vflip: of one upside down.
        rotate: training rotates by an angle drawn evenly from [-rotate, rotate] degrees.
        arch: any timm model name.
        weights: "auto", "none" or a file (safetensors, or a checkpoint readable with weights_only=True).
        dropout: before the classifier, 0 to 1.
        freeze: number of the model's first stages (the stem is the first) that are not trained.
        freeze_after: number of epochs in which they are, before that.
        epochs: number of epochs.
        bs: images a batch.
        lr: learning rate at the start; the cosine goes from it to `lr_min` over all epochs asked for.
        lr_min: learning rate at the end.
        wd: weight decay.
        patience: epochs without a better `monitor` before training stops.
        monitor: the logged column that chooses the best epoch.
        seed: of split, weights, order and augmentation.
        split_seed: of the split, where runs that differ in `seed` shall have the same one (-1: `seed`).
        loader: "auto", "dali" or "torchvision".
        device: "auto", "cuda", "mps" or "cpu".
        threads: decoding threads (0: one a core).
        cache: where decoded pixels are kept: "auto" (this user's cache folder), "off" or a folder.
    """

    data: str = ""
    source: str = ""
    classes: tuple[str, ...] = CLASSES
    splits: tuple[str, ...] = ("stratified", "center_holdout")
    holdout: tuple[str, ...] = ()
    folds: int = 5
    size: int = 224
    resize: str = "squash"
    channels: str = "rgb"
    hflip: float = 0.5
    vflip: float = 0.0
    rotate: float = 15.0
    arch: str = "efficientnet_b0"
    weights: str = "auto"
    dropout: float = 0.2
    freeze: int = 0
    freeze_after: int = 0
    epochs: int = 50
    bs: int = 32
    lr: float = 1e-3
    lr_min: float = 1e-6
    wd: float = 1e-4
    patience: int = 7
    monitor: str = "val_loss"
    seed: int = 42
    split_seed: int = -1
    loader: str = "auto"
    device: str = "auto"
    threads: int = 0
    cache: str = "auto"

    def __post_init__(self):
        for name, kind in get_type_hints(Config).items():
            object.__setattr__(self, name, convert(name, getattr(self, name), kind))
        for name, choices in (("resize", RESIZES), ("channels", CHANNELS), ("loader", LOADERS),
                              ("device", DEVICES), ("source", ("", *GENERATORS)), ("monitor", self.measures)):
            choose(name, getattr(self, name), choices)
        if not self.splits:
            raise UserError(f"splits=[] names nothing to train. Choose from: {', '.join(SPLITS)}.")
        for split in self.splits:
            choose("split", split, SPLITS)
        for name, low, high in (("folds", 2, 1000), ("size", 32, 2048), ("hflip", 0, 1), ("vflip", 0, 1),
                                ("rotate", 0, 180), ("dropout", 0, 0.99), ("freeze", 0, 100),
                                ("freeze_after", 0, 100_000), ("epochs", 1, 100_000), ("bs", 2, 65_536),
                                ("lr", 1e-12, 100), ("lr_min", 0, self.lr), ("wd", 0, 10), ("patience", 1, 100_000),
                                ("seed", 0, 2**32 - 1), ("split_seed", -1, 2**32 - 1), ("threads", 0, 1024)):
            if not low <= getattr(self, name) <= high:
                raise UserError(f"{name}={getattr(self, name)} is out of range: give a number from {low} to "
                                f"{high}" + (" (lr)." if name == "lr_min" else "."))
        if not self.cache:
            raise UserError("cache='' names no folder. Use auto, off or a folder.")
        if len(self.classes) < 2 or len(set(self.classes)) < len(self.classes):
            raise UserError(f"classes={list(self.classes)} must name two classes or more, each once.")
        for label in self.classes:
            if not re.fullmatch(r"\w[\w .-]*", label):
                raise UserError(f"The class name '{label}' must be of letters, digits, spaces, '.', '_' and '-'.")

    @property
    def measures(self) -> tuple[str, ...]:
        """The logged columns that measure the model; `monitor` is one of them."""
        return (*MEASURES, *(f"recall_{name}" for name in self.classes))


def load_config(pipeline: str = "", preset: str | None = None, **overrides: Any) -> tuple[str, Config]:
    """Reads a pipeline file and puts the given values over its own.

    Args:
        pipeline: a name (`pipelines/NAME.yaml` here, else busfast's own of that name) or the path of a YAML file,
            a run's `config.yaml` included. "": named after the data folder if one is given (a file here alone, so
            that none takes effect which nobody sees), else "phantom".
        preset: a key of `PRESETS`, whose values (they depend on the file's size) go over the file's and under the
            given ones.
        overrides: keys of `Config`; None leaves the file's value.

    Returns:
        The pipeline's name, which names the folders of its runs, and the checked configuration.

    Raises:
        UserError: no such file, an unknown key, a value of the wrong type or out of range.
    """
    overrides = {key: value for key, value in overrides.items() if value is not None}
    if pipeline:
        path = Path(pipeline) if pipeline.endswith((".yaml", ".yml")) else _named(pipeline)
        if not os.path.isfile(path):
            if path.parent == FOLDER:
                choose("pipeline", pipeline, sorted({file.stem for folder in (FOLDER, BUILTIN)
                                                     for file in folder.glob("*.yaml")}))
            raise UserError(f"There is no pipeline file {path}.")
        values = read_yaml(path)
        record = values.pop("run", None) or {}
        if not isinstance(record, dict):
            raise UserError(f"{path}: run={record} is not the record of a run. Remove that line.")
        name = folder_name(str(record.get("pipeline") or path.stem))
    else:
        folder = overrides.get("data")
        name = _name_after(Path(folder)) if folder else DEFAULT
        path = FOLDER / f"{name}.yaml" if folder else _named(name)
        values = read_yaml(path) if os.path.isfile(path) else {}
        if not folder and not values:
            raise UserError(f"There is no {path} here. Run from the folder that holds pipelines/, or name your "
                            "images: --data=FOLDER.")
    values = drop_removed(values, path)
    if "data" in overrides:
        values.pop("source", None)
    known = [item.name for item in dataclasses.fields(Config)]
    for key in values:
        try:
            choose("key", str(key), known)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
    try:
        own = Config(**values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    recipe = PRESETS[choose("preset", preset, PRESETS)](own.size) if preset else {}
    return name, Config(**(values | recipe | overrides))


def drop_removed(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """Returns the values of a file without the keys of version 0.1 that are gone; they may stand there unused.

    Raises:
        UserError: such a key has a value.
    """
    for key, reason in REMOVED.items():
        if values.get(key):
            raise UserError(f"{path}: {key}={values[key]} is no longer possible: {reason}. Remove that line.")
    return {key: value for key, value in values.items() if key not in REMOVED}


def _named(name: str) -> Path:
    """The file of a pipeline's name: the one here, else busfast's own (which an installed busfast brings along)."""
    here, own = FOLDER / f"{name}.yaml", BUILTIN / f"{name}.yaml"
    return own if os.path.isfile(own) and not os.path.isfile(here) else here


def _name_after(data: Path) -> str:
    """Names a pipeline after the data folder, or after the table where that is not simply table.csv."""
    data = data.resolve()
    folder = data.parent if data.name == "table.csv" else data
    return folder_name(folder.stem if folder.suffix == ".csv" else folder.name)


def folder_name(name: str) -> str:
    """Makes a plain folder name of a name: no separators, not hidden, not a parent."""
    return re.sub(r"[^\w.-]+", "_", name).lstrip(".") or "unnamed"


class _StrictLoader(yaml.SafeLoader):
    """Plain values only, and no key twice (YAML's own loader takes the last one without a word)."""

    def construct_object(self, node, deep=False):
        if node.tag in NUMBERS and len(node.value) > LONGEST:  # 1:1:1:... of base 60 would take minutes
            raise yaml.constructor.ConstructorError(None, None, f"a number of {len(node.value)} signs", node.start_mark)
        return super().construct_object(node, deep)

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key in (self.construct_object(key, deep=True) for key, _ in node.value):
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key '{key}' stands there twice",
                                                        node.start_mark)
            if isinstance(key, Hashable):  # what is not is refused below
                seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML file of keys and plain values; no tag of Python's is followed.

    Raises:
        UserError: it cannot be read, is larger than such a file is, also once its aliases are written out, or is
            anything else.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(MOST + 1)
        if len(text) > MOST:
            raise ValueError(f"it is larger than {MOST:,} bytes")
        values = yaml.load(text.decode("utf-8"), _StrictLoader)
        _check_extent(values)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError,
            RecursionError) as error:
        # PyYAML lets the errors of Python's own types through, such as that of the date 2024-02-30.
        raise UserError(f"{path} is not a plain YAML file: {' '.join(str(error).split())}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{path} must be a list of `key: value` lines.")
    return values


def _check_extent(values: Any) -> None:
    """Refuses what a few aliases of aliases make larger than memory, or endless, as soon as somebody prints it."""
    count, level, depth = 0, [values], 0
    while level:
        count, depth = count + len(level), depth + 1
        if count > ITEMS or depth > DEPTH:
            raise ValueError(f"it holds more than {ITEMS:,} values or {DEPTH} levels, with its aliases written out")
        level = list(islice((item for one in level if isinstance(one, dict | list | tuple | set)
                             for item in (chain.from_iterable(one.items()) if isinstance(one, dict) else one)),
                            ITEMS + 1))


def convert(name: str, value: Any, kind: Any) -> Any:
    """Brings a value from YAML, the command line or Python to its type, or refuses it."""
    if kind is str and isinstance(value, str | Path):
        return str(value)
    if get_args(kind):
        items = value.split(",") if isinstance(value, str) else value
        if isinstance(items, list | tuple):
            of = get_args(kind)[0]
            return tuple(convert(name, str(item).strip(), of) for item in items if str(item).strip())
    elif kind in (int, float) and not isinstance(value, bool):
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number) and (kind is float or number == int(number)):
            return kind(number)
    wanted = {int: "a whole number", float: "a number", str: "text"}.get(kind, "names separated by commas")
    raise UserError(f"{name}={value} is not {wanted}.")
