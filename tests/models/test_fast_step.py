"""The parts of a fast step change how fast it is, not what it computes."""

import copy
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
from conftest import ARCH, SIZE
from fastai.callback.core import Callback
from fastai.callback.fp16 import MixedPrecision
from fastai.data.transforms import Normalize
from fastai.learner import Learner
from fastai.optimizer import Adam, OptimWrapper
from fastai.vision.augment import Resize as FastaiResize
from fastai.vision.data import ImageDataLoaders
from torch import nn

from busfast.errors import UserError
from busfast.models.accelerate import accelerate
from busfast.models.fast_step import ALL, mixed_precision, plain_activations
from busfast.models.learner import make_learner
from busfast.models.optimizers import FusedAdam
from busfast.models.precision import HalfPrecision
from busfast.models.schedules import cosine
from busfast.pipelines import ImagePipeline, make_dls
from busfast.pipelines.batch_tfms import BatchPipeline


@pytest.fixture
def make(parts, tmp_path):
    """Makes Learners that start alike, whatever their parts."""
    def learner(names=ALL):
        dls = make_dls(parts, ImagePipeline(size=SIZE), bs=16, loader="torchvision", device="cpu")
        torch.manual_seed(0)
        return make_learner(dls, ARCH, weights="none", dropout=0.0, wd=0.1, parts=names, path=tmp_path)
    return learner


def without(name):
    return tuple(part for part in ALL if part != name)


def fit(learn, *args, **kwargs):
    with learn.no_bar(), learn.no_logging():
        learn.fit(*args, **kwargs)
    return learn


def assert_close(a, b):
    for key, value in a.items():
        torch.testing.assert_close(value, b[key], rtol=1e-4, atol=1e-6)


def test_an_unknown_part_is_refused_with_the_nearest(make):
    with pytest.raises(UserError, match="Unknown part of a step 'fused_optimiser'. Did you mean 'fused_optimizer'"):
        make(("channels_last", "fused_optimiser"))


def switched_off(learn):
    """The parts that a Learner on the CPU shows to be off."""
    learn.create_opt()
    modules = list(learn.model.modules())
    wide = next(module.weight for module in modules if isinstance(module, nn.Conv2d) and module.in_channels == 3)
    on = {"channels_last": wide.is_contiguous(memory_format=torch.channels_last),
          "plain_activations": not any(module.inplace for module in modules if isinstance(module, nn.SiLU)),
          "fused_optimizer": isinstance(learn.opt, OptimWrapper)}
    return [name for name, is_on in on.items() if not is_on]


@pytest.mark.parametrize("name", [part for part in ALL if part not in ("keep_memory", "amp", "rare_looks")])
def test_a_part_is_on_unless_it_is_left_out(make, name):
    assert switched_off(make()) == []
    assert switched_off(make(without(name))) == [name]


def test_memory_is_kept_where_the_part_is_on(make, monkeypatch):
    asked = []
    monkeypatch.setattr("busfast.models.learner.keep_freed_memory", lambda: asked.append(True))
    make(without("keep_memory"))
    assert asked == []
    make(("keep_memory",))
    assert asked == [True]


def test_mixed_precision_is_for_cuda_alone(make):
    assert [type(callback) for callback in mixed_precision(torch.device("cuda"))] == [HalfPrecision]
    assert mixed_precision(torch.device("cpu")) == mixed_precision(torch.device("mps")) == []
    assert not hasattr(make(), "mixed_precision")


def test_plain_activations_give_the_same_gradients_to_the_last_bit():
    model = timm.create_model(ARCH, num_classes=3)
    assert any(module.inplace for module in model.modules() if isinstance(module, nn.SiLU))
    plain = copy.deepcopy(model)
    plain_activations(plain)
    x = torch.randn(4, 3, SIZE, SIZE)
    for net in (model, plain):
        net(x).square().sum().backward()
    assert all(torch.equal(old.grad, new.grad) for old, new in zip(model.parameters(), plain.parameters(), strict=True))


def test_activations_that_lose_nothing_in_place_stay_so():
    model = timm.create_model("test_resnet")
    plain_activations(model)
    assert all(module.inplace for module in model.modules() if isinstance(module, nn.ReLU))


class Noise:
    """Four batches, the same in every epoch: just enough of DataLoaders for a Learner."""

    device, path, n_inp = torch.device("cpu"), ".", 1

    def __init__(self):
        noise = torch.Generator().manual_seed(2)
        self.train = [(torch.randn(8, 3, 8, 8, generator=noise), torch.randint(3, (8,), generator=noise))
                      for _ in range(4)]

    def __getitem__(self, index):
        return self.train


def by_hand(opt_func, **how):
    """A Learner of two groups of parameters, with a bias and a normalisation that shall not decay."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(),
                          nn.Linear(8 * 36, 3))
    return Learner(Noise(), model, nn.CrossEntropyLoss(), opt_func, wd=0.3, **how,
                   splitter=lambda model: [list(model[:2].parameters()), list(model[2:].parameters())])


@pytest.mark.parametrize("decouple", [False, True])
@pytest.mark.parametrize("how", [{"lr": slice(1e-3, 1e-2)}, {"lr": 1e-2, "wd_bn_bias": True}])
def test_fused_adam_steps_as_fastais_does(how, decouple):
    ours, theirs = (fit(by_hand(partial(opt_func, decouple_wd=decouple), **how), 5) for opt_func in (FusedAdam, Adam))
    assert_close(ours.model.state_dict(), theirs.model.state_dict())
    for name in ("lr", "mom", "sqr_mom", "eps", "wd"):
        assert [group[name] for group in ours.opt.hypers] == [group[name] for group in theirs.opt.hypers]
    assert len(ours.opt.param_lists) == len(theirs.opt.param_lists) == 2


def test_fused_adam_keeps_frozen_weights_and_trains_frozen_normalisation():
    learn = by_hand(FusedAdam, lr=1e-2)
    learn.create_opt()
    learn.opt.freeze()
    before = copy.deepcopy(learn.model.state_dict())
    after = fit(learn, 1).model.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert {"1.weight", "1.bias", "4.weight", "4.bias"} <= changed and "0.weight" not in changed


def test_training_goes_on_from_a_saved_optimizer_as_if_it_had_not_stopped(make):
    whole = fit(make(), 1)
    whole.save("halfway")
    resumed = make().load("halfway")
    batch = whole.dls.train.one_batch()
    for learn in (whole, resumed):
        learn.model.train()
        learn.loss_func(learn.model(batch[0]), batch[1]).backward()
        learn.opt.set_hypers(lr=1e-3, wd=0.1)
        learn.opt.step()
    state = resumed.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in whole.model.state_dict().items())
    assert resumed.opt.state_dict()["state"][0]["step"] == whole.opt.state_dict()["state"][0]["step"]


@pytest.mark.parametrize("name", ["channels_last", "plain_activations", "fused_optimizer"])
def test_training_without_a_part_ends_with_the_same_weights_and_scores(make, name):
    scores = []
    for names in (ALL, without(name)):
        learn = make(names)
        learn.dls.train.rng.seed(5)
        scores.append((fit(learn, 1, cbs=cosine(1e-4, 1e-6)).model.state_dict(), learn.recorder.values[-1][2:]))
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-3, atol=1e-4)


class InputGradient(Callback):
    """Takes the gradient of the input in validation, as saliency and adversarial callbacks do."""

    def before_validate(self):
        self.gradients = []

    def after_pred(self):
        if not self.training:
            with torch.enable_grad():
                x = self.xb[0].as_subclass(torch.Tensor).clone().requires_grad_()
                self.gradients.append(torch.autograd.grad(self.model(x).sum(), x)[0])


def test_a_callback_may_take_gradients_in_validation(make):
    saliency = InputGradient()
    fit(make(), 1, cbs=saliency)
    assert saliency.gradients and all(gradient.abs().max() > 0 for gradient in saliency.gradients)


def test_freeze_trains_the_classifier_alone_and_unfreeze_everything(make):
    learn = make()
    learn.create_opt()
    assert len(learn.opt.param_lists) == 3 and sum(map(len, learn.opt.param_lists)) == len([*learn.model.parameters()])
    learn.freeze()
    before = copy.deepcopy(dict(learn.model.named_parameters()))
    fit(learn, 1)
    changed = {name for name, value in learn.model.named_parameters() if not torch.equal(value, before[name])}
    batch_norm = {f"{name}.{one}" for name, module in learn.model.named_modules()
                  if isinstance(module, nn.BatchNorm2d) for one in ("weight", "bias")}  # fastai trains these
    assert changed - batch_norm == {"classifier.weight", "classifier.bias"}
    learn.unfreeze()
    assert all(weight.requires_grad for weight in learn.model.parameters())


def test_a_slice_of_learning_rates_is_spread_over_the_groups(make):
    learn = fit(make(), 1, lr=slice(1e-5, 1e-3))
    assert [group["lr"] for group in learn.opt.hypers] == pytest.approx([1e-5, 1e-4, 1e-3])


def test_fine_tune_keeps_the_stages_frozen_that_make_learner_froze(parts, tmp_path):
    torch.save(timm.create_model(ARCH, num_classes=3).state_dict(), tmp_path / "start.pth")
    dls = make_dls(parts, ImagePipeline(size=SIZE), bs=16, loader="torchvision", device="cpu")
    learn = make_learner(dls, ARCH, weights=str(tmp_path / "start.pth"), freeze=2, path=tmp_path)
    before = copy.deepcopy(dict(learn.model.named_parameters()))
    with learn.no_bar(), learn.no_logging():
        learn.fine_tune(1)
    same = {name for name, value in learn.model.named_parameters() if torch.equal(value, before[name])}
    assert same == set(learn.frozen) and "conv_stem.weight" in same


def test_other_dataloaders_are_normalized_for_the_weights(make, parts, phantom_folder):
    learn = make()
    mean, std = learn.weights_used["mean"], learn.weights_used["std"]
    own = make_dls(parts, ImagePipeline(size=32, hflip=0, rotate=0), bs=16, loader="torchvision", device="cpu")
    names = {path.name: label for path, label in zip(parts.rows["image"].map(Path), parts.rows["label"], strict=True)}
    stock = ImageDataLoaders.from_path_func(phantom_folder / "images", sorted((phantom_folder / "images").iterdir()),
                                            lambda path: names[path.name], item_tfms=FastaiResize(32), num_workers=0)
    fast = accelerate(ImageDataLoaders.from_path_func(
        phantom_folder / "images", sorted((phantom_folder / "images").iterdir()), lambda path: names[path.name],
        item_tfms=FastaiResize(32), num_workers=0), cache="off")
    for dls in (own, stock, fast):
        x = dls.valid.one_batch()[0]
        expected = Normalize.from_stats(mean, std, cuda=False)(x)
        learn.dls = dls
        torch.testing.assert_close(learn.dls.valid.one_batch()[0], expected, atol=2e-5, rtol=0)
    assert isinstance(fast.train.after_batch, BatchPipeline)  # it is still fast


def test_every_option_of_the_optimizer_that_loggers_write_is_a_number(make):
    learn = make()
    learn.create_opt()
    assert {"lr", "mom", "sqr_mom", "eps", "wd"} <= set(learn.opt.hypers[0])
    assert all(type(value) in (int, float) for group in learn.opt.hypers for value in group.values())


def test_mixed_precision_is_added_once(make):
    learn = make()
    learn.add_cb(MixedPrecision())
    learn.to_fp16(init_scale=8.0)
    assert [cb.kwargs for cb in learn.cbs if isinstance(cb, MixedPrecision)] == [{"init_scale": 8.0}]


def test_a_class_without_a_training_image_is_named(parts):
    parts = replace(parts, rows=parts.rows[(parts.rows["label"] != "benign") | (parts.rows["part"] != "train")])
    dls = make_dls(parts, ImagePipeline(size=32), bs=16, loader="torchvision", device="cpu")
    with pytest.raises(UserError, match="no image of the class 'benign'. Leave it out"):
        make_learner(dls, ARCH, weights="none")


def test_the_learning_rate_finder_puts_weights_and_optimizer_back(make):
    learn = fit(make(), 1)
    before, steps = copy.deepcopy(learn.model.state_dict()), learn.opt.state_dict()["state"][0]["step"].clone()
    with learn.no_bar():
        learn.lr_find(num_it=5, show_plot=False)
    assert all(torch.equal(value, learn.model.state_dict()[name]) for name, value in before.items())
    assert learn.opt.state_dict()["state"][0]["step"] == steps
