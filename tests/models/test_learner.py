"""The Learner is the experiment's: weighted loss, cosine, the logged columns."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ARCH, SIZE

from busfast.errors import UserError
from busfast.models.learner import make_learner
from busfast.models.losses import class_weights
from busfast.models.optimizers import OPTIMIZERS
from busfast.models.schedules import cosine
from busfast.pipelines import ImagePipeline, make_dls
from busfast.training.callbacks import monitor_with

CLASSES = ("normal", "benign", "malignant")


@pytest.fixture
def learn(parts, tmp_path):
    dls = make_dls(parts, ImagePipeline(size=SIZE), bs=16, loader="torchvision", device="cpu")
    return make_learner(dls, ARCH, weights="none", path=tmp_path)


def test_the_loss_is_weighted_by_the_training_part_alone(learn, parts):
    train = parts.only("train").rows["label"].tolist()
    assert torch.allclose(learn.loss_func.func.weight if hasattr(learn.loss_func, "func") else learn.loss_func.weight,
                          class_weights(train, CLASSES))


def test_the_schedule_spans_the_epochs_asked_for(learn):
    with learn.no_bar(), learn.no_logging():
        learn.fit(2, cbs=cosine(1e-3, 1e-6))
    rates = learn.recorder.lrs
    assert rates[0] == pytest.approx(1e-3) and rates == sorted(rates, reverse=True)
    middle = rates[len(rates) // 2]
    assert middle == pytest.approx((1e-3 + 1e-6) / 2, rel=1e-3)


def test_adamw_decays_the_weights_themselves(parts, tmp_path):
    dls = make_dls(parts, ImagePipeline(size=SIZE), bs=16, loader="torchvision", device="cpu")
    learn = make_learner(dls, ARCH, weights="none", opt_func=OPTIMIZERS["adamw"], label_smoothing=0.1, path=tmp_path)
    learn.create_opt()
    assert isinstance(learn.opt.opt, torch.optim.AdamW)
    logits, targets = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
    weight = class_weights(parts.only("train").rows["label"].tolist(), CLASSES)
    assert learn.loss_func(logits, targets) == pytest.approx(
        torch.nn.functional.cross_entropy(logits, targets, weight=weight, label_smoothing=0.1).item())


def test_monitor_is_checked_before_training_and_knows_its_direction():
    measures = ("train_loss", "val_loss", "macro_auc", "neg_log_loss", "recall_loss of tissue")
    assert monitor_with("neg_log_loss", measures)["comp"] is np.greater
    assert monitor_with("val_loss", measures)["comp"] is np.less
    assert monitor_with("macro_auc", measures)["comp"] is np.greater
    assert monitor_with("recall_loss of tissue", measures)["comp"] is np.greater
    with pytest.raises(UserError, match="Unknown monitor 'val_los'. Did you mean 'val_loss'"):
        monitor_with("val_los", measures)


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
