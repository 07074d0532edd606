"""The metrics of each epoch agree with scikit-learn, and are NaN where they are undefined."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ARCH, SIZE
from sklearn.metrics import recall_score, roc_auc_score

from busfast.models.learner import make_learner
from busfast.models.metrics import MacroAUC, Recall, macro_auc, val_acc, val_loss
from busfast.pipelines import ImagePipeline, make_dls


@pytest.fixture
def learn(parts, tmp_path):
    dls = make_dls(parts, ImagePipeline(size=SIZE), bs=16, loader="torchvision", device="cpu")
    return make_learner(dls, ARCH, weights="none", path=tmp_path)


def test_metrics_agree_with_scikit_learn_and_val_loss_is_unweighted(learn):
    with torch.no_grad():  # leans towards one class, so that weights make a difference
        learn.model.classifier.bias.copy_(torch.tensor([-1.0, 0.0, 2.0]))
    with learn.no_bar(), learn.no_logging():
        values = learn.validate()
    logits, targets = learn.get_preds(act=torch.nn.Identity())
    probabilities = logits.softmax(dim=1).numpy()
    chosen, targets = logits.argmax(dim=1).numpy(), targets.numpy()
    expected = [torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(targets)).item(),
                (chosen == targets).mean(), roc_auc_score(targets, probabilities, multi_class="ovr"),
                *recall_score(targets, chosen, average=None, zero_division=0)]
    assert list(values[1:]) == pytest.approx(expected, abs=1e-5)
    assert values[0] != pytest.approx(values[1], abs=1e-2)  # fastai's valid_loss is the weighted one


def test_undefined_metrics_are_nan_not_zero():
    targets = torch.tensor([0, 0, 1])
    learn = SimpleNamespace(pred=torch.randn(3, 3), y=targets, yb=(targets,))
    for metric in (MacroAUC(), Recall(2, "malignant")):
        metric.reset()
        assert math.isnan(metric.value)
        metric.accumulate(learn)
        assert math.isnan(metric.value)
    assert math.isnan(macro_auc(np.full((4, 2), np.nan), np.array([0, 1, 0, 1])))


def test_hand_counted_metrics():
    logits = torch.tensor([[2.0, 0, 0], [0, 2, 0], [0, 2, 0], [2, 0, 0]])
    targets = torch.tensor([0, 1, 2, 2])
    assert val_acc(logits, targets) == 0.5
    right = -math.log(math.e**2 / (math.e**2 + 2))
    assert val_loss(logits, targets).item() == pytest.approx(right / 2 + (right + 2) / 2)
