"""An outlier score finds images unlike the training images, and refuses arrays that do not fit each other.

Covers busfast/inference/outlier.py and the features of busfast/inference/engines.py (see test_onnx_export.py, too).
"""

from dataclasses import asdict, replace

import numpy as np
import pytest
import timm
import torch
from conftest import ARCH

from busfast.inference.engines import WithFeatures, supports_features
from busfast.inference.outlier import Outlier, fit_outlier


def draw(count, seed, shift=0.0):
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(0).normal(size=(6, 40))
    return rng.normal(size=(count, 6)) @ mix + 0.1 * rng.normal(size=(count, 40)) + shift


@pytest.fixture
def outlier():
    return fit_outlier(draw(500, 1), draw(300, 2))


def test_a_hundredth_of_new_images_of_the_same_kind_is_called_unlike(outlier):
    assert (outlier.score(draw(5000, 3)) > 1).mean() == pytest.approx(0.01, abs=0.01)


def test_what_never_varied_counts_most(outlier):
    direction = np.linalg.qr(np.vstack([np.random.default_rng(0).normal(size=(6, 40)), np.ones(40)]).T)[0][:, 6]
    assert (outlier.score(draw(200, 4) + 2 * direction) > 1).all()  # 2 is as much as other directions vary


def test_few_images_and_features_that_never_vary_give_a_score():
    few = np.hstack([draw(5, 1), np.ones((5, 3))])
    assert np.isfinite(fit_outlier(few, few).score(few)).all()
    assert np.isfinite(fit_outlier(0 * few, 0 * few).score(few)).all()


@pytest.mark.parametrize("spoil", [
    lambda one: replace(one, mean=one.mean[:-1]), lambda one: replace(one, rest=np.float32([0])),
    lambda one: replace(one, threshold=np.float32([np.nan])), lambda one: replace(one, mean=one.mean.astype(float)),
    lambda one: replace(one, directions=one.mean), lambda one: Outlier(**(asdict(one) | {"other": one.mean})),
])
def test_arrays_that_do_not_belong_together_are_refused(outlier, spoil):
    with pytest.raises((ValueError, TypeError)):
        spoil(outlier)


@pytest.mark.parametrize(("arch", "can"), [(ARCH, True), ("test_resnet", True), ("test_vit", True)])
def test_features_come_with_the_very_logits_of_the_model(arch, can):
    model = timm.create_model(arch, num_classes=3).eval()
    size = model.pretrained_cfg["input_size"][-1]
    assert supports_features(model, (size, size)) is can
    x = torch.randn(3, 3, size, size)
    with torch.no_grad():
        logits, features = WithFeatures(model)(x)
        assert torch.allclose(logits, model(x), atol=1e-5)
    assert features.shape[0] == 3 and features.std(dim=0).max() > 0


def test_a_model_that_timm_does_not_know_gives_none():
    assert not supports_features(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 2)), (8, 8))
