"""Folding changes no prediction, whatever the model."""

import copy

import pytest
import timm
import torch
from conftest import ARCH
from torch import nn

from busfast.inference import fold_batchnorm as folding
from busfast.inference.fold_batchnorm import fold_batchnorm

SIZE = 64


def used(model: nn.Module) -> nn.Module:
    """Gives every normalisation statistics and weights as training leaves them, so that folding has work to do."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    return model.eval()


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def logits(model, x):
    with torch.no_grad():
        return model.eval()(x)


def make(arch):
    return used(timm.create_model(arch, num_classes=3))


@pytest.mark.parametrize("arch", [ARCH, "resnet18", "mobilenetv3_small_050", "tf_efficientnet_lite0"])
def test_a_folded_model_has_no_normalisation_left_and_predicts_the_same(arch):
    model = make(arch)
    before = copy.deepcopy(model.state_dict())
    folded = fold_batchnorm(model)
    x = torch.randn(3, 3, SIZE, SIZE)
    torch.testing.assert_close(logits(folded, x), logits(model, x), rtol=1e-4, atol=1e-4)
    assert norms(folded) == 0 and norms(model) > 10
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_model_in_training_stays_in_training_and_its_copy_is_for_inference():
    model = make(ARCH).train()
    folded = fold_batchnorm(model)
    assert model.training and not any(module.training for module in folded.modules())
    x = torch.randn(3, 3, SIZE, SIZE)
    torch.testing.assert_close(folded(x), logits(model, x), rtol=1e-4, atol=1e-4)


def test_folding_keeps_the_layout_and_draws_no_random_number():
    model = make(ARCH).to(memory_format=torch.channels_last)
    torch.manual_seed(4)
    folded = fold_batchnorm(model)
    drawn = torch.rand(1)
    torch.manual_seed(4)
    assert torch.equal(drawn, torch.rand(1))
    assert folded.conv_stem.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("arch", ["convnext_atto", "test_vit"])  # the latter takes images of 160 px alone
def test_a_model_without_batch_normalisation_is_returned_itself(arch):
    model = timm.create_model(arch, num_classes=3)
    assert fold_batchnorm(model) is model


def test_a_model_of_one_size_is_folded_at_that_size():
    model = make("test_maxvit")
    folded = fold_batchnorm(model, (160, 160))
    assert norms(folded) < norms(model)
    x = torch.randn(1, 3, 160, 160)
    torch.testing.assert_close(logits(folded, x), logits(model, x), rtol=1e-4, atol=1e-4)


def test_a_normalisation_before_its_convolution_is_left_alone():
    model = make("densenet121")
    folded = fold_batchnorm(model)
    assert 0 < norms(folded) < norms(model)
    x = torch.randn(2, 3, SIZE, SIZE)
    torch.testing.assert_close(logits(folded, x), logits(model, x), rtol=1e-4, atol=1e-4)


class Odd(nn.Module):
    """A convolution and its normalisation as usual, then two that `way` uses in a way that must not be folded."""

    def __init__(self, way):
        super().__init__()
        self.way, self.usual = way, nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
        self.conv, self.norm, self.other = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x):
        y = self.conv(self.usual(x))
        z = self.norm(y)
        if self.way == "output taken twice":
            z = z + self.other(y)
        if self.way == "output taken unseen":
            z = z + y
        if self.way == "norm used twice":
            z = self.norm(z)
        if self.way == "convolution used twice":
            z = z + self.conv(z)
        return z.mean(dim=(2, 3))


@pytest.mark.parametrize(("way", "left"), [("as usual", 1), ("output taken twice", 2), ("norm used twice", 2),
                                           ("convolution used twice", 2), ("output taken unseen", 3)])
def test_what_would_come_out_differently_is_left_alone(way, left):
    """`other` stays in any case; what is seen only in the result leaves the whole model as it was."""
    model = used(Odd(way))
    folded = fold_batchnorm(model)
    assert norms(folded) == left and (folded is model) == (left == 3)
    x = torch.randn(3, 3, SIZE, SIZE)
    torch.testing.assert_close(logits(folded, x), logits(model, x), rtol=1e-4, atol=1e-4)


def test_a_wrong_fold_is_noticed(monkeypatch):
    model = make(ARCH)
    monkeypatch.setattr(folding, "fuse_conv_bn_eval", lambda conv, norm: copy.deepcopy(conv))
    assert fold_batchnorm(model) is model
