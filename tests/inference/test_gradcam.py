"""Grad-CAM agrees with its formula for any CNN, and its maps lie where the model looks."""

import numpy as np
import pytest
import timm
import torch
from conftest import ARCH, SIZE
from torch import nn

from busfast.errors import UserError
from busfast.inference.gradcam import Explainer, find_offset, grad_cam, last_feature_layer, make_noise_images
from busfast.inference.load_bundle import Ensemble
from busfast.pipelines.image import ImagePipeline


@pytest.mark.parametrize("arch", ["resnet18", "efficientnet_b0", "convnext_atto", ARCH])
def test_grad_cam_finds_the_last_maps_of_any_cnn_and_agrees_with_its_formula(arch):
    model = timm.create_model(arch, num_classes=3).eval()
    layer, x = last_feature_layer(model, arch), torch.randn(2, 3, SIZE, SIZE)
    maps = grad_cam(model, layer, x, torch.tensor([0, 2]), (-5, 3))
    kept = []
    hook = layer.register_forward_hook(lambda _, __, out: kept.append(out))
    logits = model(x)
    hook.remove()
    gradients, = torch.autograd.grad(logits[0, 0] + logits[1, 2], kept[0])
    wanted = (gradients.mean((2, 3), keepdim=True) * kept[0]).sum(1, keepdim=True).relu()
    wanted = torch.nn.functional.interpolate(wanted, (SIZE, SIZE), mode="bilinear")[:, 0].detach().numpy()
    wanted = np.pad(wanted, ((0, 0), (5, 5), (5, 5)), "edge")[:, 10:, 2:66]  # 5 pixels up, 3 to the right
    most = wanted.max((1, 2), keepdims=True)
    assert np.allclose(maps, np.divide(wanted, most, out=np.zeros_like(wanted), where=most > 0), atol=1e-4)


def test_the_map_of_an_ensemble_is_the_mean_of_its_members_maps_whose_place_is_measured_each():
    one, other = (timm.create_model(ARCH, num_classes=2).eval() for _ in range(2))
    image = ImagePipeline(size=SIZE)
    pixels, targets = make_noise_images(image, 3), np.array([0, 1, 1])
    first, second, both = (Explainer(model, ARCH, image, "cpu", make_noise_images(image)).explain(pixels, targets)
                           for model in (one, other, Ensemble([one, other])))
    wanted = first + second
    assert np.allclose(both, wanted / np.maximum(wanted.max((1, 2), keepdims=True), 1e-9), atol=1e-5)
    assert not np.allclose(both, first, atol=1e-2)


@pytest.mark.parametrize(("padding", "wanted"), [((1, 1), -3.5), ((0, 1), 3.5)])
def test_where_a_cell_looks_is_measured(padding, wanted):
    """Three strides of 2: padded on both sides cell i looks around pixel 8 i, padded on the right around 8 i + 7."""
    layers = []
    for _ in range(3):
        layers += [nn.ConstantPad2d(padding * 2, 0.0), nn.Conv2d(3, 3, 3, stride=2)]
        nn.init.constant_(layers[-1].weight, 0.1)
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    found = find_offset(model, model[5], torch.rand(2, 3, SIZE, SIZE))
    assert found == pytest.approx((wanted, wanted), abs=0.51)


def test_a_model_without_feature_maps_is_refused():
    with pytest.raises(UserError, match="needs a CNN"):
        last_feature_layer(nn.Linear(2, 2), "linear")
