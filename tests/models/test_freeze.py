"""Frozen stages stay as they were, and the rest of the model learns."""

import pytest
import timm
import torch
from conftest import ARCH, SIZE
from fastai.callback.core import Callback
from timm.models import group_parameters

from busfast.errors import UserError
from busfast.models.freeze import FreezeStages, freeze_stages
from busfast.models.learner import make_learner
from busfast.pipelines import ImagePipeline, make_dls


@pytest.fixture
def dls(parts):
    return make_dls(parts, ImagePipeline(size=SIZE), bs=16, loader="torchvision", device="cpu")


def test_frozen_weights_stay_and_the_others_learn(dls, tmp_path):
    torch.save(timm.create_model(ARCH, num_classes=3).state_dict(), tmp_path / "start.pth")
    learn = make_learner(dls, ARCH, weights=str(tmp_path / "start.pth"), freeze=2, path=tmp_path)
    before = {name: value.detach().clone() for name, value in learn.model.named_parameters()}
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
    stages = group_parameters(learn.model, learn.model.group_matcher(coarse=True))
    frozen = {name for key in sorted(stages)[:2] for name in stages[key]}
    unchanged = {name for name, value in learn.model.named_parameters() if torch.equal(value, before[name])}
    assert "conv_stem.weight" in frozen and unchanged == frozen
    assert learn.opt.state_dict()["state"]  # can be saved, frozen weights and all


def test_stages_may_learn_for_some_epochs_before_they_are_frozen(dls, tmp_path, capsys):
    learn = make_learner(dls, ARCH, weights="none", path=tmp_path)
    stem, seen = learn.model.conv_stem.weight, []
    callbacks = [FreezeStages(2, 1, ARCH), Each(lambda: seen.append(stem.detach().clone()))]
    start = stem.detach().clone()
    with learn.no_bar(), learn.no_logging():
        learn.fit(3, cbs=callbacks)
    assert not torch.equal(start, seen[0]) and torch.equal(seen[0], seen[1]) and torch.equal(seen[0], seen[2])
    assert "epoch 2: the first 2 stages are frozen from here on" in capsys.readouterr().out


class Each(Callback):
    """Calls a function after each epoch."""

    def __init__(self, function):
        self.function = function

    def after_epoch(self):
        self.function()


def test_random_weights_are_not_frozen(dls, tmp_path, capsys):
    learn = make_learner(dls, ARCH, weights="none", freeze=2, path=tmp_path)
    assert all(weight.requires_grad for weight in learn.model.parameters())
    assert "freeze=2 ignored: random weights" in capsys.readouterr().out


@pytest.mark.parametrize("arch", ["efficientnet_b0", "resnet18"])
def test_any_timm_model_has_stages_and_more_than_it_has_are_refused(arch):
    model = timm.create_model(arch, num_classes=3)
    freeze_stages(model, 1, arch)
    assert not next(model.parameters()).requires_grad and model.get_classifier().weight.requires_grad
    with pytest.raises(UserError, match=f"freeze=9 leaves nothing of {arch} to train"):
        freeze_stages(model, 9, arch)
