"""Each setting has its type, range, choices and help in one place, its field; nothing else is accepted."""

import re
from dataclasses import dataclass, fields

import pytest

from busfast.errors import UserError
from busfast.pipelines.config import Config
from busfast.pipelines.settings import describe, setting


def refusal(function, *args, **kwargs):
    with pytest.raises(UserError) as caught:
        function(*args, **kwargs)
    return str(caught.value)


@pytest.mark.parametrize("item", fields(Config), ids=lambda item: item.name)
def test_every_setting_has_a_type_help_and_a_number_its_range(item):
    assert item.type in (str, int, float, tuple[str, ...])
    assert re.fullmatch(r"[^.\n]{10,}(\.[^ ][^.\n]*)*", item.metadata["help"])  # a line, without a full stop
    assert (item.metadata["low"] is not None and item.metadata["high"] is not None) is (item.type in (int, float))
    assert getattr(Config(), item.name) == item.default
    assert f"{item.name}: {describe(item)}" in Config.__doc__


def test_a_setting_is_one_field():
    @dataclass(frozen=True)
    class More(Config):
        warmup: int = setting(0, "epochs of a rising learning rate", low=0, high=10)
        curve: str = setting("cosine", "how it falls", choices=("cosine", "linear"))
        tags: tuple[str, ...] = setting((), "words", choices=lambda config: config.splits)

    assert (More(warmup="3").warmup, More(tags="stratified").tags) == (3, ("stratified",))
    assert refusal(More, warmup=11) == "warmup=11 is out of range: give a number from 0 to 10."
    assert refusal(More, warmup="soon") == "warmup=soon is not a whole number."
    assert "Unknown curve 'linar'. Did you mean 'linear'?" in refusal(More, curve="linar")
    assert "Unknown tag 'x'" in refusal(More, tags="stratified,x")
    assert describe(fields(More)[-2]) == "how it falls: cosine, linear. Default: cosine."
    assert describe(fields(More)[-1]) == "words."


WRONG_TYPE = [
    ("epochs", True), ("epochs", 1.5), ("epochs", None), ("epochs", "abc"), ("epochs", [3]),
    pytest.param("epochs", 10**400, id="epochs-huge"),
    ("size", float("inf")), ("seed", float("nan")), ("threads", "1e400"), ("lr", float("nan")), ("lr", float("inf")),
    ("lr", "-inf"), ("lr", "fast"), ("lr", False), ("lr", {"a": 1}), ("wd", ""), ("dropout", [0.2]),
    ("arch", ["resnet18"]), ("arch", 18), ("data", True), ("data", None), ("weights", 0.5), ("resize", {}),
    ("cache", 5), ("classes", 3),
    ("classes", {"benign": 1}), ("splits", None), ("splits", True), ("holdout", 2.5),
]
OUT_OF_RANGE = [
    ("size", 31), ("size", 2049), ("hflip", -0.1), ("hflip", 1.1), ("vflip", 2), ("rotate", -1), ("rotate", 181),
    ("dropout", 1), ("dropout", -0.2), ("epochs", 0), ("epochs", -5), ("bs", 1), ("bs", 0), ("lr", 0), ("lr", -1e-3),
    ("lr", 101), ("lr_min", -1e-6), ("lr_min", 0.1), ("wd", -1e-4), ("wd", 11), ("patience", 0), ("seed", -1),
    ("seed", 2**32), ("threads", -1), ("threads", 1025),
]
UNKNOWN = [
    ("resize", "sqash", "squash"), ("channels", "grey", "gray"), ("loader", "dally", "dali"),
    ("device", "cuda:0", "cuda"), ("source", "fantom", "phantom"), ("monitor", "valid_loss", "val_loss"),
    ("splits", "centre_holdout", "center_holdout"),
]


@pytest.mark.parametrize(("key", "value"), WRONG_TYPE)
def test_a_value_of_the_wrong_type_is_refused_by_key_and_value(key, value):
    assert re.match(rf"{key}=({re.escape(str(value))}|x) is not ", refusal(Config, **{key: value}))


@pytest.mark.parametrize(("key", "value"), OUT_OF_RANGE)
def test_a_value_out_of_range_is_refused_by_key_value_and_range(key, value):
    message = refusal(Config, **{key: value})
    assert message.startswith(f"{key}={value}")
    assert "out of range: give a number from" in message


@pytest.mark.parametrize(("key", "value", "nearest"), UNKNOWN)
def test_an_unknown_choice_is_refused_with_the_nearest(key, value, nearest):
    message = refusal(Config, **{key: value})
    assert f"'{value}'" in message
    assert f"Did you mean '{nearest}'" in message


@pytest.mark.parametrize(("key", "ends"), [("size", (32, 2048)), ("dropout", (0, 0.99)), ("epochs", (1, 100_000)),
                                           ("bs", (2, 65_536)), ("lr_min", (0, 1e-3)), ("seed", (0, 2**32 - 1))])
def test_the_ends_of_a_range_belong_to_it(key, ends):
    for value in ends:
        assert getattr(Config(**{key: value}), key) == value
