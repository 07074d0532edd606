"""YAML files of keys and plain values: read strictly, and within seconds whatever they hold."""

import math
from collections.abc import Hashable, Iterable
from copy import deepcopy
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any

import yaml

from busfast.errors import UserError

MAX_BYTES = 200_000  # PyYAML takes about a second for 100,000
MAX_VALUES, MAX_DEPTH = 50_000, 20  # with all aliases written out
MAX_DIGITS = 400  # of a number; one of base 60, 1:1:1:..., would take minutes
NAMES = ("classes", "holdout")  # keys whose items are names, as they stand: yes, no, null, 007 and dates, too
NAME = "positive"  # a key whose value is one
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
READ_AS = (*NUMBERS, *(f"tag:yaml.org,2002:{kind}" for kind in ("bool", "null", "timestamp")))


class _StrictLoader(yaml.SafeLoader):
    """Refuses long numbers and duplicate keys (YAML's own loader silently takes the last one)."""

    def construct_object(self, node, deep=False):
        if node.tag in NUMBERS and len(node.value) > MAX_DIGITS:
            raise yaml.constructor.ConstructorError(None, None, f"a number of {len(node.value)} characters",
                                                    node.start_mark)
        return super().construct_object(node, deep)

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key in (self.construct_object(key, deep=True) for key, _ in node.value):
            if not isinstance(key, Hashable):
                continue  # refused by SafeLoader below
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key '{key}' is given twice", node.start_mark)
            seen.add(key)
        for key, value in node.value:
            named = key.value in NAMES and isinstance(value, yaml.SequenceNode)
            for item in value.value if named else [value] if key.value == NAME else ():
                if item.tag in READ_AS:
                    item.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep)


def yaml_list(names: Iterable[str]) -> str:
    """Returns names as a list to paste into a YAML file, such as [benign, 'yes', 'a, b']: quoted where they need it."""
    return yaml.safe_dump(list(names), default_flow_style=True, allow_unicode=True, width=math.inf).strip()


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML file of keys and plain values; Python tags are refused.

    Raises:
        UserError: the file cannot be read, is too large (also once its aliases are written out), or is not YAML of
            keys and plain values.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise ValueError(f"it is larger than {MAX_BYTES:,} bytes")
        values = deepcopy(_parse(text))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError,
            RecursionError) as error:
        # PyYAML lets the errors of Python's own types through, such as that of the date 2024-02-30.
        raise UserError(f"{path} is not a plain YAML file: {' '.join(str(error).split())}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{path} must consist of `key: value` lines.")
    return values


@lru_cache(16)  # a verb reads the same few files many times, and PyYAML is slow
def _parse(text: bytes) -> Any:
    values = yaml.load(text.decode("utf-8"), _StrictLoader)
    _check_extent(values)
    return values


def _check_extent(values: Any) -> None:
    """Refuses nested aliases that would fill the memory, or never end, as soon as the values are printed."""
    count, level, depth = 0, [values], 0
    while level:
        count, depth = count + len(level), depth + 1
        if count > MAX_VALUES or depth > MAX_DEPTH:
            raise ValueError(f"it holds more than {MAX_VALUES:,} values or {MAX_DEPTH} levels, with its aliases "
                             "written out")
        level = list(islice((child for value in level if isinstance(value, dict | list | tuple | set)
                             for child in (chain.from_iterable(value.items()) if isinstance(value, dict) else value)),
                            MAX_VALUES + 1))
