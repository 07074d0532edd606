"""The settings of a training: the experiment's defaults, and no two that contradict each other."""

import pytest

from busfast.errors import UserError
from busfast.pipelines.config import Config


def refusal(**settings):
    with pytest.raises(UserError) as caught:
        Config(**settings)
    return str(caught.value)


def test_the_defaults_are_those_of_the_experiment():
    config = Config()
    assert (config.arch, config.size, config.bs, config.dropout, config.wd) == ("efficientnet_b0", 224, 32, 0.2, 1e-4)
    assert (config.lr, config.lr_min, config.epochs, config.patience) == (1e-3, 1e-6, 50, 7)
    assert (config.monitor, config.seed) == ("val_loss", 42)
    assert config.classes == ()  # those of the images
    assert config.splits == ("stratified", "center_holdout")


def test_a_recall_of_the_named_classes_can_be_monitored():
    config = Config(classes=("cyst", "solid"), monitor="recall_cyst")
    assert config.monitor in config.measures
    assert "'recall_benign'" in refusal(classes=("cyst", "solid"), monitor="recall_benign")


def test_lr_min_may_not_be_above_lr():
    message = refusal(lr=1e-4, lr_min=1e-3)
    assert "lr_min=0.001" in message
    assert "0.0001 (lr)" in message


@pytest.mark.parametrize(("classes", "shown"), [
    (("benign",), "['benign']"), (("benign", "benign"), "['benign', 'benign']"),
    (("benign", "a/b"), "'a/b'"), (("benign", ".."), "'..'"), (("benign", "a\nb"), "'a\nb'"),
])
def test_classes_are_two_or_more_plain_names(classes, shown):
    assert shown in refusal(classes=classes)


def test_two_ways_to_mix_images_are_refused():
    assert "mixup=0.2 and cutmix=1 both mix" in refusal(mixup=0.2, cutmix=1)


def test_splits_name_at_least_one():
    assert "splits=[]" in refusal(splits=())


def test_an_empty_cache_folder_is_refused():
    assert "Use auto, off or a folder" in refusal(cache="")
