"""Losses by name: the values of the setting `loss`."""

import math
import sys
from collections.abc import Sequence

import cloudpickle
import torch
from fastai.losses import BCEWithLogitsLossFlat, CrossEntropyLossFlat, FocalLossFlat
from timm.loss import BinaryCrossEntropy
from torch import nn

from busfast.errors import UserError, choose
from busfast.pipelines.config import LOSSES

GAMMA = 2.0  # of the focal loss


class OneVsRest(BinaryCrossEntropy):
    """timm's binary cross-entropy of each class against the rest, for images of one class; the probabilities are the
    softmax of the same logits. Source: Wightman et al. 2021, "ResNet strikes back" (arXiv 2110.00476)."""

    y_int = True  # mixup blends the losses of two labels

    def __init__(self, smoothing: float = 0.0):
        super().__init__(smoothing, reduction="none")
        self.reduction = "mean"  # fastai sets it

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Returns the loss of logits (N, k) and labels (N,), summed over classes: a number, or (N,)."""
        reduction, self.reduction = self.reduction, "none"
        try:
            each = super().forward(x, target).sum(dim=-1)
        finally:
            self.reduction = reduction
        return each if reduction == "none" else each.mean()

    def activation(self, logits: torch.Tensor) -> torch.Tensor:
        """Returns probabilities, (N, k), which sum to 1."""
        return logits.softmax(dim=-1)

    def decodes(self, logits: torch.Tensor) -> torch.Tensor:
        """Returns the most probable class, (N,)."""
        return logits.argmax(dim=-1)


def class_weights(labels: Sequence[str], classes: Sequence[str]) -> torch.Tensor:
    """Returns n / (k * count) for each of the k classes (each must occur): they weigh the same in the loss."""
    counts = [sum(label == name for label in labels) for name in classes]
    if 0 in counts:
        empty = [name for name, count in zip(classes, counts, strict=True) if not count]
        raise UserError(f"The training part has no image of the class {' or '.join(map(repr, empty))}. Leave it out: "
                        f"classes={[name for name in classes if name not in empty]}; or split the images again.")
    return torch.tensor([len(labels) / (len(classes) * count) for count in counts])


def make_loss(name: str, weight: torch.Tensor | None, label_smoothing: float = 0.0) -> nn.Module:
    """Makes a loss.

    Args:
        name: one of `LOSSES` of busfast.pipelines.config.
        weight: of the classes; None: an image may have several labels, and the loss is binary cross-entropy.
        label_smoothing: 0 to 1; focal and several labels have none.

    Raises:
        UserError: an unknown name.
    """
    choose("loss", name, LOSSES)
    if weight is None:
        return BCEWithLogitsLossFlat()
    if name == "focal":
        return FocalLossFlat(gamma=GAMMA)  # with class weights, its p would not be the probability
    if name == "bce":
        return OneVsRest(label_smoothing)
    return CrossEntropyLossFlat(weight=None if name == "cross_entropy" else weight, label_smoothing=label_smoothing)


def mean_logits(logits: Sequence[torch.Tensor], multi_label: bool) -> torch.Tensor:
    """Returns logits, (N, k), whose probabilities are the mean of those of others, as `Mirrored` of
    busfast/inference/load_bundle.py does, which imports nothing of busfast."""
    if multi_label:
        return torch.stack([each.sigmoid() for each in logits]).mean(dim=0).logit(eps=1e-7)
    return torch.stack([each.log_softmax(dim=1) for each in logits]).logsumexp(dim=0) - math.log(len(logits))

# A learner exported with its loss must load where busfast is not installed.
cloudpickle.register_pickle_by_value(sys.modules[__name__])
