"""The validation metrics of each epoch; one fastai metric for each column of the log."""

import sys

import cloudpickle
import numpy as np
import torch
import torch.nn.functional as F
from fastai.learner import Metric
from sklearn.metrics import roc_auc_score


def val_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Unweighted cross-entropy, so that runs with other class weights compare (fastai's valid_loss is weighted)."""
    return F.cross_entropy(torch.as_tensor(logits), torch.as_tensor(targets))


def val_acc(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Share of images whose most probable class is the right one."""
    return (logits.argmax(dim=1) == targets).float().mean()


class Recall(Metric):
    """Recall (sensitivity) of one class; NaN if it has no images."""

    def __init__(self, index: int, label: str):
        self.index, self._name = index, f"recall_{label}"

    @property
    def name(self):
        return self._name

    def reset(self):
        self.hits = self.count = 0

    def accumulate(self, learn):
        positive = learn.y == self.index
        self.count += int(positive.sum())
        self.hits += int((learn.pred.argmax(dim=1)[positive] == self.index).sum())

    @property
    def value(self):
        return self.hits / self.count if self.count else float("nan")


class MacroAUC(Metric):
    """Macro AUC, one class against the rest; NaN if a class is absent."""

    name = "macro_auc"

    def reset(self):
        self.probabilities, self.targets = [], []

    def accumulate(self, learn):
        self.probabilities.append(learn.pred.detach().float().softmax(dim=1).cpu().numpy())
        self.targets.append(learn.y.cpu().numpy())

    @property
    def value(self):
        if not self.targets:
            return float("nan")
        return macro_auc(np.concatenate(self.probabilities), np.concatenate(self.targets))


def macro_auc(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """Returns the mean over classes of the area under the ROC curve, one class against the rest; probabilities: (N, k).
    NaN if it is undefined (a class without images, a probability that is NaN)."""
    aucs = []
    for index in range(probabilities.shape[1]):
        if not np.isfinite(probabilities).all() or len(set(targets == index)) < 2:
            return float("nan")
        aucs.append(roc_auc_score(targets == index, probabilities[:, index]))
    return float(np.mean(aucs))


def make_metrics(classes: tuple[str, ...]) -> list:
    """Returns the metrics in the order of the log's columns."""
    return [val_loss, val_acc, MacroAUC(), *(Recall(index, label) for index, label in enumerate(classes))]


# A learner exported with its metrics must load where busfast is not installed.
cloudpickle.register_pickle_by_value(sys.modules[__name__])
