"""Freezes the first stages of a pretrained model.

Their pretrained features serve most images, and a step without their backward pass, where the feature maps are largest,
is much faster.
"""

import sys

import cloudpickle
from fastai.callback.core import Callback
from torch import nn

from busfast.errors import UserError
from busfast.once import say


def should_freeze(count: int, start: str, setting: str = "freeze") -> bool:
    """Returns whether to freeze `count` stages: never of random weights (by `StartWeights.text`), which is printed."""
    random = start.startswith("random")
    if count and random:
        say(f"{setting}={count} ignored: random weights")
    return count > 0 and not random


def model_stages(model: nn.Module) -> list[list[str]]:
    """Returns the names of the weights in each stage of a timm model; none of a model that does not tell its stages.
    timm counts the stem as the first and the classifier as the last."""
    from timm.models import group_parameters

    stages = group_parameters(model, model.group_matcher(coarse=True)) if hasattr(model, "group_matcher") else {}
    return [stages[key] for key in sorted(stages)]


def split_stages(model: nn.Module) -> list[list[nn.Parameter]]:
    """Splits a timm model for fastai's `freeze`, `fine_tune` and `slice(lr)`: early stages, late stages, classifier."""
    stages = model_stages(model)
    if len(stages) < 3:
        return [list(model.parameters())]
    half = len(stages) // 2
    names = [sum(stages[:half], []), sum(stages[half:-1], []), stages[-1]]
    return [[model.get_parameter(name) for name in group] for group in names]


def freeze_stages(model: nn.Module, count: int, arch: str) -> tuple[str, ...]:
    """Freezes a timm model's first stages; the statistics of their batch normalization are still updated. Returns the
    names of the frozen weights. UserError if no stage would be left to train."""
    stages = model_stages(model)
    if count >= len(stages):
        raise UserError(f"freeze={count} leaves nothing of {arch} to train: it has {len(stages)} stages, including "
                        "the classifier. Give a smaller number, or 0.")
    frozen = tuple(name for stage in stages[:count] for name in stage)
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    return frozen


class FreezeStages(Callback):
    """Freezes a model's first `count` stages after `after` epochs of training.
    Source: Brock et al. 2017, "FreezeOut: Accelerate training by progressively freezing layers" (arXiv 1706.04983)."""

    def __init__(self, count: int, after: int, arch: str):
        self.count, self.after, self.arch, self.done = count, after, arch, False

    def before_train(self):
        if self.epoch >= self.after and not self.done:  # a resumed run may begin later
            self.done = True
            self.learn.frozen = freeze_stages(self.learn.model, self.count, self.arch)
            print(f"epoch {self.epoch + 1}: the first {self.count} stages are frozen from here on")


class UnfreezeAfter(Callback):
    """Trains only the last parameter group, by default the classifier, in the first epochs, like `fine_tune`."""

    def __init__(self, epochs: int):
        self.epochs = epochs

    def before_fit(self):
        self._freeze_to(-1)

    def before_train(self):
        if self.epoch >= self.epochs and self.learn.opt.frozen_idx:  # a resumed run may begin later
            self._freeze_to(0)
            print(f"epoch {self.epoch + 1}: all of the model is trained from here on")

    def _freeze_to(self, group: int) -> None:
        # Learner.freeze_to would also forget the optimizer's state, which a resumed run has just been given.
        self.learn.opt.freeze_to(group)
        for name in self.learn.frozen:
            self.learn.model.get_parameter(name).requires_grad_(False)


# An exported learner holds `split_stages` and must load where busfast is not installed.
cloudpickle.register_pickle_by_value(sys.modules[__name__])
