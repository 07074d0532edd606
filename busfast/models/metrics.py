"""The validation metrics of each epoch; one fastai metric for each column of the log."""

import sys
from collections.abc import Sequence

import cloudpickle
import numpy as np
import torch
import torch.nn.functional as F
from fastai.learner import Metric
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import get_scorer, roc_auc_score

from busfast.models.rare_looks import look_every
from busfast.text import MANY


def val_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Unweighted cross-entropy, so that runs with other class weights compare (fastai's valid_loss is weighted); the
    binary one of several labels, (N, k)."""
    logits, targets = torch.as_tensor(logits), torch.as_tensor(targets)
    return F.binary_cross_entropy_with_logits(logits, targets) if targets.ndim == 2 else \
        F.cross_entropy(logits, targets)


def val_acc(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Share of images whose most probable class is the right one; of several labels, share of right yes and no."""
    right = (logits > 0) == (targets > 0) if targets.ndim == 2 else logits.argmax(dim=1) == targets
    return right.float().mean()


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
        positive = learn.y[:, self.index] > 0 if learn.y.ndim == 2 else learn.y == self.index
        called = learn.pred[:, self.index] > 0 if learn.y.ndim == 2 else learn.pred.argmax(dim=1) == self.index
        self.count += positive.sum()
        self.hits += (called & positive).sum()

    @property
    def value(self):
        return int(self.hits) / int(self.count) if self.count else float("nan")


class MacroAUC(Metric):
    """Macro AUC, one class against the rest; NaN if a class is absent. `seen`: the probabilities, (N, k), and targets,
    (N,) or (N, k), of the validation part."""

    name = "macro_auc"

    def reset(self):
        self._recent, self._kept = [], []  # batches: tensors on the device, arrays

    def accumulate(self, learn):
        logits = learn.pred.detach().float()
        self._recent.append((logits.sigmoid() if learn.y.ndim == 2 else logits.softmax(dim=1), learn.y))
        if len(self._recent) >= look_every(logits.device):
            self._keep()

    def _keep(self):
        if self._recent:
            self._kept.append(tuple(torch.cat(parts).cpu().numpy() for parts in zip(*self._recent, strict=True)))
            self._recent = []

    @property
    def seen(self) -> tuple[np.ndarray, ...] | None:
        """Probabilities and targets, in the order of the images; None before the first batch."""
        self._keep()
        if len(self._kept) > 1:  # joined once: several metrics read them
            self._kept = [tuple(map(np.concatenate, zip(*self._kept, strict=True)))]
        return self._kept[0] if self._kept else None

    @property
    def value(self):
        return float("nan") if self.seen is None else macro_auc(*self.seen)


class Scorer(Metric):
    """A scorer of scikit-learn, by its name, of the probabilities that `auc` keeps; NaN if it is not defined, such as
    for a class without images."""

    def __init__(self, name: str, auc: MacroAUC):
        self._name, self.auc = name, auc

    @property
    def name(self):
        return self._name

    def reset(self):
        """Nothing to forget."""

    def accumulate(self, learn):
        """Nothing to keep."""

    @property
    def value(self):
        if self.auc.seen is None:
            return float("nan")
        probabilities, targets = self.auc.seen
        try:
            return float(get_scorer(self._name)(_Given(probabilities.shape[1]), probabilities, targets))
        except ValueError:
            return float("nan")


class _Given(ClassifierMixin, BaseEstimator):
    """What scikit-learn calls a classifier, for probabilities that are there already."""

    def __init__(self, k: int):
        self.k = k
        self.classes_ = np.arange(k)

    def predict_proba(self, probabilities: np.ndarray) -> np.ndarray:
        return probabilities

    def predict(self, probabilities: np.ndarray) -> np.ndarray:
        return probabilities.argmax(axis=1)


def macro_auc(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """Returns the mean over classes of the area under the ROC curve, one class against the rest; probabilities: (N, k),
    targets: (N,), or (N, k) of several labels. NaN if it is undefined (a class without images, a probability that is
    NaN)."""
    aucs = []
    for index in range(probabilities.shape[1]):
        positive = targets[:, index] > 0 if targets.ndim == 2 else targets == index
        if not np.isfinite(probabilities).all() or len(set(positive)) < 2:
            return float("nan")
        aucs.append(roc_auc_score(positive, probabilities[:, index]))
    return float(np.mean(aucs))


def make_metrics(classes: Sequence[str], scorers: Sequence[str] = (), monitor: str = "") -> list:
    """Returns the metrics in the order of the log's columns: of more than `MANY` classes, recall only of the monitored
    one."""
    recalls = [Recall(index, label) for index, label in enumerate(classes)
               if len(classes) <= MANY or monitor == f"recall_{label}"]
    auc = MacroAUC()
    return [val_loss, val_acc, auc, *(Scorer(name, auc) for name in scorers), *recalls]


# A learner exported with its metrics must load where busfast is not installed.
cloudpickle.register_pickle_by_value(sys.modules[__name__])
