"""The first stages of a model, left as they are.

What they learned elsewhere serves most images, and a step without their backward pass, where the feature maps are
largest, is much faster.
"""

from fastai.callback.core import Callback
from torch import nn

from busfast.errors import UserError


def can_freeze(count: int, start: str) -> bool:
    """Returns whether stages are to be frozen: of random weights none are, which is said.

    Args:
        count: how many were asked for.
        start: what the weights are, `Weights.text`.
    """
    random = start.startswith("random")
    if count and random:
        print(f"freeze={count}: nothing is, for the weights are random", flush=True)
    return count > 0 and not random


def freeze_stages(model: nn.Module, count: int, arch: str) -> None:
    """Stops the training of a model's first stages; their batch normalisation still follows the images.

    Args:
        model: a timm model.
        count: how many, as timm counts them: the stem is the first, the classifier the last.
        arch: names the model in the error.

    Raises:
        UserError: the model has no such stages.
    """
    from timm.models import group_parameters

    stages = group_parameters(model, model.group_matcher(coarse=True)) if hasattr(model, "group_matcher") else {}
    if count >= len(stages):
        raise UserError(f"freeze={count} leaves nothing of {arch} to train: it has {len(stages)} stages, the "
                        "classifier among them. Give a smaller number, or 0.")
    for key in sorted(stages)[:count]:
        for name in stages[key]:
            model.get_parameter(name).requires_grad_(False)


class FreezeStages(Callback):
    """Freezes a model's first stages after some epochs, by when they have learned what they can.

    Args:
        count, arch: as those of `freeze_stages`.
        after: number of epochs in which all of the model is trained.

    Source:
        Brock et al. 2017, "FreezeOut: Accelerate training by progressively freezing layers" (arXiv 1706.04983).
    """

    def __init__(self, count: int, after: int, arch: str):
        self.count, self.after, self.arch, self.done = count, after, arch, False

    def before_train(self):
        if self.epoch >= self.after and not self.done:  # a run that goes on may begin later
            self.done = True
            freeze_stages(self.learn.model, self.count, self.arch)
            print(f"epoch {self.epoch + 1}: from here on the first {self.count} stages stay as they are", flush=True)
