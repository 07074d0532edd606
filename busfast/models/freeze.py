"""Freezes the first stages of a pretrained model.

Their pretrained features serve most images, and a step without their backward pass, where the feature maps are largest,
is much faster.
"""

from fastai.callback.core import Callback
from torch import nn

from busfast.errors import UserError


def should_freeze(count: int, start: str) -> bool:
    """Returns whether to freeze `count` stages: never of random weights (by `StartWeights.text`), which is printed."""
    random = start.startswith("random")
    if count and random:
        print(f"freeze={count} ignored: random weights", flush=True)
    return count > 0 and not random


def freeze_stages(model: nn.Module, count: int, arch: str) -> None:
    """Freezes a timm model's first stages; the statistics of their batch normalization are still updated.
    timm counts the stem as the first and the classifier as the last. UserError if no stage would be left to train."""
    from timm.models import group_parameters

    stages = group_parameters(model, model.group_matcher(coarse=True)) if hasattr(model, "group_matcher") else {}
    if count >= len(stages):
        raise UserError(f"freeze={count} leaves nothing of {arch} to train: it has {len(stages)} stages, including "
                        "the classifier. Give a smaller number, or 0.")
    for key in sorted(stages)[:count]:
        for name in stages[key]:
            model.get_parameter(name).requires_grad_(False)


class FreezeStages(Callback):
    """Freezes a model's first `count` stages after `after` epochs of training.
    Source: Brock et al. 2017, "FreezeOut: Accelerate training by progressively freezing layers" (arXiv 1706.04983)."""

    def __init__(self, count: int, after: int, arch: str):
        self.count, self.after, self.arch, self.done = count, after, arch, False

    def before_train(self):
        if self.epoch >= self.after and not self.done:  # a resumed run may begin later
            self.done = True
            freeze_stages(self.learn.model, self.count, self.arch)
            print(f"epoch {self.epoch + 1}: the first {self.count} stages are frozen from here on", flush=True)
