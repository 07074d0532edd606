"""Optimizers by name: torch's and timm's, with fastai's groups, hyperparameters and weight decay.

FusedAdam against fastai's Adam is in test_fast_step.py.
"""

import pytest
import timm.optim
import torch
from fastai.callback.schedule import ParamScheduler, SchedCos
from torch import nn

from busfast.models.optimizers import OPTIMIZERS, FusedAdam, find_optimizer
from busfast.pipelines import config
from busfast.pipelines.config import Config


def test_the_settings_names_are_those_that_are_made():
    assert set(OPTIMIZERS) == set(config.OPTIMIZERS)
    assert find_optimizer("adam") is FusedAdam


@pytest.mark.parametrize("name", ["lion", "lamb", "nadamw", "rmsprop", "adafactor", "muon", "nesterov"])
def test_an_optimizer_of_timm_steps_as_it_does_by_itself(name):
    torch.manual_seed(0)
    ours, theirs = nn.Linear(4, 3), nn.Linear(4, 3)
    theirs.load_state_dict(ours.state_dict())
    opt = find_optimizer(name)([[ours.weight], [ours.bias]], lr=0.01)
    opt.set_hyper("wd", 0.0)
    plain = timm.optim.create_optimizer_v2([{"params": [theirs.weight]}, {"params": [theirs.bias]}], name, lr=0.01)
    x = torch.randn(8, 4)
    for _ in range(3):
        for model, each in ((ours, opt), (theirs, plain)):
            model(x).square().mean().backward()
            each.step()
            each.zero_grad()
    assert torch.allclose(ours.weight, theirs.weight) and torch.allclose(ours.bias, theirs.bias)
    assert all(isinstance(value, int | float) for group in opt.hypers for value in group.values())


def test_groups_have_their_own_rates_and_undecayed_parameters_no_decay():
    weights = [nn.Parameter(torch.ones(2)) for _ in range(4)]
    opt = find_optimizer("lion")([weights[:2], weights[2:]], lr=slice(1e-4, 1e-2), wd=0.1)
    assert [group["lr"] for group in opt.hypers] == pytest.approx([1e-4, 1e-2])
    opt.state[weights[1]]["do_wd"] = False
    opt.zero_grad()
    for weight in weights:
        weight.grad = torch.ones(2)
    opt.step()
    decays = {id(weight): group["weight_decay"] for group in opt.opt.param_groups for weight in group["params"]}
    assert [decays[id(weight)] for weight in weights] == [0.1, 0.0, 0.1, 0.1]


def test_a_schedule_of_momentum_is_no_error_for_an_optimizer_without():
    opt = find_optimizer("adafactor")([nn.Parameter(torch.ones(2))], lr=0.1)
    ParamScheduler({"mom": SchedCos(0.95, 0.85)})  # what one_cycle has
    opt.set_hyper("mom", 0.9)
    assert "mom" not in opt.hypers[0]


def test_a_misspelt_optimizer_is_refused_with_timms_nearest_name():
    assert Config(opt="lion").opt == "lion"
    with pytest.raises(Exception, match="Unknown opt 'lionn'. Did you mean 'lion'"):
        Config(opt="lionn")
