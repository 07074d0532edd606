"""What a configuration changes in training: gradients added up and clipped, heads first, mirror images, metrics."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import ARCH
from fastai.callback.core import Callback
from fastai.callback.training import GradientClip
from sklearn.metrics import balanced_accuracy_score, matthews_corrcoef

import busfast
from busfast.cli import main
from busfast.errors import UserError
from busfast.models import make_learner
from busfast.models.freeze import UnfreezeAfter
from busfast.pipelines import ImagePipeline, make_dls
from busfast.pipelines.config import Config
from busfast.training.recipe import Accumulate, MirroredValidation, recipe_callbacks
from busfast.training.runs import Run


@pytest.fixture
def learn(parts) -> Callback:
    dls = make_dls(parts, ImagePipeline(size=32), bs=8, loader="torchvision", device="cpu")
    made = make_learner(dls, ARCH, weights="none", dropout=0)
    return made.remove_cbs([made.recorder, made.progress])


class Watch(Callback):
    order = 60

    def __init__(self):
        self.steps, self.batches, self.losses, self.seen = 0, 0, [], []

    def after_batch(self):
        self.batches += self.training

    def after_step(self):
        self.steps += 1


def test_accumulated_batches_make_one_step_and_an_epoch_ends_with_one(learn):
    watch = Watch()
    learn.fit(2, cbs=[Accumulate(3 * 8), watch])
    batches = len(learn.dls.train)
    assert watch.batches == 2 * batches and watch.steps == 2 * -(-batches // 3)


def test_two_accumulated_halves_have_the_gradient_of_the_whole():
    """Without batch normalization; the loss is a mean over the batch."""
    torch.manual_seed(0)
    model, x, y = torch.nn.Linear(4, 3), torch.randn(8, 4), torch.randint(0, 3, (8,))
    torch.nn.functional.cross_entropy(model(x), y).backward()
    whole = model.weight.grad.clone()
    model.zero_grad()
    callback = Accumulate(8)
    for half in (slice(0, 4), slice(4, 8)):
        callback.learn = type("Learn", (), {"yb": (y[half],)})()
        callback.learn.loss_grad = torch.nn.functional.cross_entropy(model(x[half]), y[half])
        callback.after_loss()
        callback.learn.loss_grad.backward()
    assert torch.allclose(model.weight.grad, whole, atol=1e-7)


def test_the_classifier_alone_learns_first_and_all_of_the_model_after(learn, capsys):
    seen = []

    class Keep(Callback):
        def after_epoch(self):
            model = self.learn.model
            seen.append((model.conv_stem.weight.detach().clone(), model.classifier.weight.detach().clone()))

    start = learn.model.conv_stem.weight.detach().clone()
    learn.fit(3, lr=0.01, cbs=[UnfreezeAfter(2), Keep()])
    assert torch.equal(start, seen[1][0]) and not torch.equal(start, seen[2][0])
    assert not torch.equal(seen[0][1], seen[1][1])
    assert "epoch 3: all of the model is trained from here on" in capsys.readouterr().out


def test_a_mirrored_validation_does_not_tell_left_from_right(learn):
    batch, seen = learn.dls.valid.one_batch(), []

    class Keep(Callback):
        order = MirroredValidation.order + 1

        def after_pred(self):
            seen.append(self.pred.clone())

    for cbs in ([MirroredValidation(False), Keep()], [Keep()]):
        for pixels in (batch[0], batch[0].flip(-1)):
            learn.validate(dl=[(pixels, batch[1])], cbs=cbs)
    assert torch.allclose(seen[0], seen[1], atol=1e-5) and not torch.allclose(seen[2], seen[3], atol=1e-3)
    assert torch.allclose(seen[0].exp(), (seen[2].softmax(1) + seen[3].softmax(1)) / 2, atol=1e-5)


def test_each_setting_has_its_callback(learn):
    plain = [type(callback).__name__ for callback in recipe_callbacks(Config(), learn)]
    assert plain == ["ParamScheduler"]
    config = Config(mixup=0.4, accumulate=2, clip=1.5, ema=0.9, tta="flip", lr_mult=10)
    made = {type(callback).__name__: callback for callback in recipe_callbacks(config, learn)}
    assert set(made) == {"ParamScheduler", "MixUp", "Accumulate", "GradientClip", "AveragedWeights",
                         "MirroredValidation"}
    assert isinstance(made["GradientClip"], GradientClip) and made["GradientClip"].max_norm == 1.5
    assert made["Accumulate"].n_acc == 64
    assert np.allclose(made["ParamScheduler"].scheds["lr"](0), [1e-4, 10**-3.5, 1e-3])  # three groups


def test_random_weights_are_not_frozen(learn, capsys):
    assert len(recipe_callbacks(Config(unfreeze_after=1), learn)) == 1
    assert "unfreeze_after=1 ignored: random weights" in capsys.readouterr().out


def test_a_run_with_every_setting_says_so_and_is_scored_as_it_is_exported(workdir, capsys):
    flags = ["--augment=strong", "--opt=nadamw", "--lr_mult=4", "--warmup=1", "--accumulate=2", "--clip=2", "--ema=0.9",
             "--loss=bce", "--label_smoothing=0.05", "--tta=flip", "--metrics=balanced_accuracy,matthews_corrcoef",
             "--monitor=matthews_corrcoef", "--valid_share=0.25", "--test_share=0.2", "--set=wd=0.02,dropout=0.1"]
    assert main(["train", *flags, "--epochs=2", "--then=evaluate,report"]) == 0
    out = capsys.readouterr().out
    assert ("recipe: augment strong, opt nadamw, warmup 1, lr_mult 4, accumulate 2, clip 2, ema 0.9, loss bce, "
            "label_smoothing 0.05, tta flip, metrics balanced_accuracy,matthews_corrcoef\n") in out
    run = Run("phantom/stratified")
    kept = yaml.safe_load((run.results / "config.yaml").read_text())
    assert (kept["wd"], kept["dropout"], kept["tta"], kept["augment"]) == (0.02, 0.1, "flip", ["strong"])
    assert set(kept["run"]["class_weights"].values()) == {1.0}
    parts = pd.read_csv(run.results / "split.csv")["part"].value_counts(normalize=True)
    assert parts["valid"] == pytest.approx(0.25, abs=0.06) and parts["test"] == pytest.approx(0.2, abs=0.06)
    log = pd.read_csv(run.results / "training_log.csv")
    valid = pd.read_csv(run.results / "valid_predictions.csv")
    best = log.loc[log["epoch"] == run.read_summary()["best_epoch"]].iloc[0]
    assert best["matthews_corrcoef"] == pytest.approx(matthews_corrcoef(valid["label"], valid["predicted"]), abs=1e-5)
    assert best["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(valid["label"], valid["predicted"]))
    # The predictions of training and of evaluate are those with the mirror image.
    scored = pd.read_csv(run.results / "predictions.csv").query("part == 'valid'").set_index("image")
    columns = ["p_normal", "p_benign", "p_malignant"]
    assert np.allclose(valid.set_index("image")[columns], scored.loc[valid["image"], columns], atol=1e-5)
    card = (run.results / "model_card.md").read_text()
    assert "binary cross-entropy of each class, nadamw" in card and "ema 0.9" in card
    assert main(["export", f"--run={run.name}", "--format=bundle,learner"]) == 0
    assert main(["predict", "data", f"--model={run.models}/bundle"]) == 2  # there is no such folder
    assert '"version": "3.0"' in (run.models / "bundle" / "bundle.json").read_text()


def test_an_input_that_is_not_square_goes_all_the_way(workdir, capsys):
    assert main(["train", "--width=96", "--augment=standard", "--epochs=1", "--then=evaluate,explain,report"]) == 0
    assert "to 64x96 px, into" in capsys.readouterr().out
    run = Run("phantom/stratified")
    assert main(["export", f"--run={run.name}", "--format=bundle,learner"]) == 0
    images = sorted(Path(yaml.safe_load((run.results / "config.yaml").read_text())["data"], "images").iterdir())[:6]
    tables = []
    for words in ([f"--run={run.name}"], [f"--model={run.models}/bundle"]):
        assert main(["predict", str(images[0].parent), *words, "--out=out.csv", "--overwrite"]) == 0
        tables.append(pd.read_csv("out.csv")[["p_normal", "p_benign", "p_malignant"]])
    assert np.allclose(*tables, atol=1e-5)
    facts = json.loads((run.models / "bundle" / "bundle.json").read_text())
    assert (facts["version"], facts["input"]["size"], facts["input"]["width"]) == ("3.0", 64, 96)
    dls = busfast.dataloaders(images[0].parent.parent, size=(64, 96), bs=4, cache="off", device="cpu")
    assert dls.one_batch()[0].shape == (4, 3, 64, 96)


@pytest.mark.parametrize(("values", "message"), [
    ({"augment": "flip,erase", "hflip": 0}, "hflip and vflip are 0, so there is no flip"),
    ({"augment": ""}, "For no augmentation: augment=none"), ({"width": 20}, "width=20 is out of range"),
    ({"mixup": 0.2, "cutmix": 1}, "both mix the images"), ({"warmup": 2, "schedule": "one_cycle"}, "a warm-up of its"),
    ({"warmup": 3, "epochs": 3}, "warmup=3 must be less than epochs=3"),
    ({"unfreeze_after": 5, "epochs": 4}, "unfreeze_after=5 must be less than epochs=4"),
    ({"unfreeze_after": 3, "freeze_after": 2, "freeze": 1}, "Give unfreeze_after up to 2"),
    ({"valid_share": 0.6, "test_share": 0.4}, "leave nothing to train on"),
    ({"loss": "focal", "label_smoothing": 0.1}, "no meaning for loss=focal"), ({"label_delim": "ab"}, "not one char"),
    ({"label_delim": ";", "loss": "focal"}, "means several"), ({"label_delim": ";", "mixup": 0.2}, "not possible with"),
    ({"metrics": "accurate"}, "Unknown metric 'accurate'"), ({"tta": "flipp"}, "Did you mean 'flip'"),
])
def test_settings_that_contradict_each_other_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        Config(**values)
