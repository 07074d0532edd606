import pytest

from busfast.errors import UserError
from busfast.pipelines.config import Config
from busfast.sweep.space import apply, ends, read_space


@pytest.mark.parametrize(("params", "config", "expected"), [
    ("lr", {}, {"lr": (1e-4, 1e-2)}),
    ("lr", {"lr": 2e-3, "lr_min": 1e-3}, {"lr": (1e-3, 2e-2)}),
    ("lr_min, wd", {}, {"lr_min": (1e-7, 1e-4), "wd": (1e-6, 1e-2)}),
    ("size", {}, {"size": (160, 224, 288)}),
    ("size", {"size": 64}, {"size": (32, 64, 96)}),
    ("size", {"size": 32}, {"size": (32, 64)}),
    ("bs,freeze", {"freeze": 3}, {"bs": (16, 32, 64), "freeze": (0, 2, 3, 4)}),
    ("augment", {}, {"augment": ("light", "none", "standard", "strong")}),
    ("augment", {"augment": "flip,erase"}, {"augment": ("flip,erase", "none", "light", "standard", "strong")}),
    ("opt,schedule", {"opt": "lion"}, {"opt": ("lion", "adam", "adamw", "sgd"),
                                       "schedule": ("cosine", "one_cycle", "flat_cos")}),
    ("mixup,label_smoothing=0:0.1", {}, {"mixup": (0.0, 0.5), "label_smoothing": (0.0, 0.1)}),
    ("lr=1e-5:1e-3,bs=8/64,size=100:170,dropout=0.1:0.2", {},
     {"lr": (1e-5, 1e-3), "bs": (8, 64), "size": (100, 164), "dropout": (0.1, 0.2)}),
])
def test_each_key_is_varied_around_the_pipelines_own_value_or_as_it_is_told(params, config, expected):
    space = read_space(params, Config(data="x", **config))
    assert list(space) == list(expected)
    for key, values in expected.items():
        assert ends(space[key]) == pytest.approx(values) if key == "lr_min" else ends(space[key]) == values
        assert getattr(space[key], "log", False) == (key in ("lr", "lr_min", "wd"))


@pytest.mark.parametrize(("params", "message"), [
    ("lrr", "Unknown key of --params 'lrr'. Did you mean 'lr'?"),
    ("epochs", "Unknown key of --params 'epochs'"),
    ("lr,lr=1e-3:1e-2", "--params names lr twice"),
    (",", "names nothing to vary"),
    ("lr=1e-3", "'1e-3' does not name two or more different values"),
    ("bs=16/16", "'16/16' does not name two or more different values"),
    ("lr=1e-2:1e-3", "1e-2:1e-3 is not a range"),
    ("lr=1:2:3", "is not a range"),
    ("lr=0:1e-3", "begin above 0"),
    ("lr=abc:1", "lr=abc is not a number"),
    ("bs=8:", "bs= is not a whole number"),
    ("bs=1/8", "--params, bs: bs=1 is out of range"),
    ("dropout=0:2", "--params, dropout: dropout=2.0 is out of range"),
    ("augment=none/more", "--params, augment: Unknown augment 'more'"),
    ("arch=a:b", "does not name two or more"),
    ("lr=1e-5:1e-3,lr_min=1e-6:1e-4", "--params, lr_min: lr_min=0.0001 is out of range: give a number from 0 to 1e-05"),
    ("lr=1e-9:1e-3", "--params, lr: lr_min=1e-06 is out of range"),
])
def test_what_cannot_be_varied_is_refused_with_the_value(params, message):
    with pytest.raises(UserError) as error:
        read_space(params, Config(data="x"))
    assert message in str(error.value)


def test_a_level_of_augmentation_changes_nothing_else_of_the_pipeline():
    config = Config(data="x", hflip=0.5, vflip=0, rotate=15)
    strong = apply(config, {"augment": "strong", "lr": 0.01})
    assert (strong.augment, strong.rotate, strong.vflip, strong.lr, strong.size) == (("strong",), 15, 0, 0.01, 224)
