"""The Learner is the experiment's: weighted loss, cosine, the logged columns."""

import math
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ARCH, SIZE
from sklearn.metrics import recall_score, roc_auc_score

from busfast.errors import UserError
from busfast.models.learner import class_weights, cosine, make_learner
from busfast.models.memory import keep_freed_memory
from busfast.models.metrics import MacroAUC, Recall, macro_auc, val_acc, val_loss
from busfast.pipelines import ImagePipeline, make_dls
from busfast.training.callbacks import monitor_with

CLASSES = ("normal", "benign", "malignant")


@pytest.fixture
def learn(parts, tmp_path):
    dls = make_dls(parts, ImagePipeline(size=SIZE), bs=16, loader="torchvision", device="cpu")
    return make_learner(dls, ARCH, weights="none", path=tmp_path)


def test_class_weights_are_those_of_the_experiment():
    labels = ["normal"] * 1315 + ["benign"] * 1066 + ["malignant"] * 240
    expected = [2621 / (3 * count) for count in (1315, 1066, 240)]
    assert class_weights(labels, CLASSES).tolist() == pytest.approx(expected)


def test_the_loss_is_weighted_by_the_training_part_alone(learn, parts):
    train = parts["label"][parts["part"] == "train"].tolist()
    assert torch.allclose(learn.loss_func.func.weight if hasattr(learn.loss_func, "func") else learn.loss_func.weight,
                          class_weights(train, CLASSES))


def test_the_learning_rate_of_five_epochs_is_the_logged_one():
    schedule = cosine(1e-3, 1e-6).scheds["lr"]
    rates = [schedule(epoch / 5) for epoch in range(1, 6)]
    assert [f"{rate:.2e}" for rate in rates] == ["9.05e-04", "6.55e-04", "3.46e-04", "9.64e-05", "1.00e-06"]


def test_the_schedule_spans_the_epochs_asked_for(learn):
    with learn.no_bar(), learn.no_logging():
        learn.fit(2, cbs=cosine(1e-3, 1e-6))
    rates = learn.recorder.lrs
    assert rates[0] == pytest.approx(1e-3) and rates == sorted(rates, reverse=True)
    middle = rates[len(rates) // 2]
    assert middle == pytest.approx((1e-3 + 1e-6) / 2, rel=1e-3)


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


def test_monitor_is_checked_before_training_and_knows_its_direction():
    measures = ("train_loss", "val_loss", "macro_auc", "recall_loss of tissue")
    assert monitor_with("val_loss", measures)["comp"] is np.less
    assert monitor_with("macro_auc", measures)["comp"] is np.greater
    assert monitor_with("recall_loss of tissue", measures)["comp"] is np.greater
    with pytest.raises(UserError, match="Unknown monitor 'val_los'. Did you mean 'val_loss'"):
        monitor_with("val_los", measures)


def test_keeping_freed_memory_never_fails():
    assert keep_freed_memory() in (True, False)


def test_a_learner_exported_in_a_notebook_loads_and_predicts_without_busfast_and_dali(learn, tmp_path):
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
        path = learn.dls.valid_ds.items["image"].iloc[0]
        expected = learn.predict(path)[2].tolist()
    learn.export()
    code = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "busfast" or name.startswith("nvidia.dali"):
            raise ModuleNotFoundError(f"No module named {{name!r}}")
sys.meta_path.insert(0, Absent())
from fastai.vision.all import load_learner
learn = load_learner({str(tmp_path / "export.pkl")!r})
with learn.no_bar():
    print("row", *learn.predict({path!r})[2].tolist())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    row = done.stdout.split("row ")[1].split()
    assert [float(value) for value in row] == pytest.approx(expected, abs=1e-4)
