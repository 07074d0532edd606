"""Grad-CAM agrees with its formula for any layout of features, and its maps lie where the model looks."""

import numpy as np
import pytest
import timm
import torch
from conftest import ARCH, SIZE
from torch import nn

from busfast.inference.gradcam import (
    Explainer,
    NoMaps,
    find_layer,
    find_places,
    grad_cam,
    make_noise_images,
)
from busfast.inference.load_bundle import Ensemble
from busfast.models.arch import make_timm
from busfast.pipelines.image import ImagePipeline

SWIN = {"depths": (1, 1), "embed_dim": 16, "num_heads": (1, 2), "window_size": 4}
LAYOUTS = {  # name -> options, the layer, and how its output becomes (N, C, h, w); 64 px
    "resnet18": ({}, "layer4", lambda out: out), "efficientnet_b0": ({}, "blocks.6", lambda out: out),
    ARCH: ({}, "blocks.4", lambda out: out), "convnext_atto": ({}, "stages.3", lambda out: out),
    "test_mambaout": ({}, "stages.3", lambda out: out.permute(0, 3, 1, 2)),
    "swin_tiny_patch4_window7_224": (SWIN, "layers.1", lambda out: out.permute(0, 3, 1, 2)),
    "hiera_tiny_224": ({"embed_dim": 16, "stages": (1,) * 4}, "blocks.3", lambda out: out.mT.reshape(5, -1, 2, 2)),
    "test_vit": ({}, "blocks.5.norm1", lambda out: out[:, 1:].mT.reshape(len(out), -1, 4, 4)),  # a class token
    "test_vit2": ({}, "blocks.7.norm1", lambda out: out[:, 1:].mT.reshape(len(out), -1, 4, 4)),  # a register
}


def make(arch, side=SIZE):
    return make_timm(arch, (side, side), num_classes=5, **LAYOUTS[arch][0]).eval()


@pytest.mark.parametrize("arch", LAYOUTS)
def test_grad_cam_finds_the_last_maps_and_agrees_with_its_formula(arch):
    model, (_, name, as_maps) = make(arch), LAYOUTS[arch]
    nn.init.normal_(model.get_classifier().weight)
    x = torch.randn(5, 3, SIZE, SIZE)
    layer = find_layer(model, arch, x)
    assert layer.module is model.get_submodule(name)
    places = find_places(model, layer, x)
    maps = grad_cam(model, layer, x, torch.arange(5), places)
    kept = []
    hook = layer.module.register_forward_hook(lambda _, __, out: kept.append(out))
    logits = model(x)
    hook.remove()
    gradients, = torch.autograd.grad(logits.diagonal().sum(), kept[0])
    wanted = (as_maps(gradients).mean((2, 3), keepdim=True) * as_maps(kept[0])).sum(1, keepdim=True).relu()
    assert wanted.any()
    wanted = places.spread(wanted[:, 0].detach().numpy(), (SIZE, SIZE))
    most = wanted.max((1, 2), keepdims=True)
    assert np.allclose(maps, np.divide(wanted, most, out=np.zeros_like(wanted), where=most > 0), atol=1e-4)


def test_the_map_of_an_ensemble_is_the_mean_of_its_members_maps_each_in_its_place():
    one, other = (timm.create_model(ARCH, num_classes=2).eval() for _ in range(2))
    image = ImagePipeline(size=SIZE)
    pixels, targets = make_noise_images(image, 3), np.array([0, 1, 1])
    first, second, both = (Explainer(model, ARCH, image, "cpu", make_noise_images(image)).explain(pixels, targets)
                           for model in (one, other, Ensemble([one, other])))
    wanted = first + second
    assert np.allclose(both, wanted / np.maximum(wanted.max((1, 2), keepdims=True), 1e-9), atol=1e-5)
    assert not np.allclose(both, first, atol=1e-2)


@pytest.mark.parametrize(("arch", "side", "note"), [
    (ARCH, 160, "Coarse maps: 5 x 5 cells show a region, not a lesion's edge."), (ARCH, 192, ""),
    ("swin_tiny_patch4_window7_224", 64, "Where cells look was measured, as it could not be computed.")])
def test_coarse_maps_and_measured_places_are_named(arch, side, note):
    image = ImagePipeline(size=side)
    assert Explainer(make(arch, side), arch, image, "cpu", make_noise_images(image, 2)).note == note


@pytest.mark.parametrize("arch", [ARCH, "test_mambaout", "swin_tiny_patch4_window7_224", "test_vit", "test_vit2"])
@pytest.mark.parametrize("corner", [(0, -1), (-1, 0)])
def test_cells_lie_where_the_image_changes(arch, corner):
    model, x = make(arch, 128), torch.zeros(2, 3, 128, 128)
    rows, columns = (slice(-64, None) if side else slice(64) for side in corner)
    x[1, :, rows, columns] = torch.randn(3, 64, 64) * 3
    layer, kept = find_layer(model, arch, x), []
    layer.module.register_forward_hook(lambda _, __, out: kept.append(layer.as_maps(out)))
    with torch.no_grad():
        model(x)
    change = (kept[0][1] - kept[0][0]).square().sum(0)
    quarters = nn.functional.adaptive_avg_pool2d(change[None], 2)[0]
    assert quarters[corner] == quarters.max() > 2 * quarters.flip(0)[corner]


def test_a_model_whose_features_are_no_maps_is_refused():
    with pytest.raises(NoMaps, match="timm lists none of linear. Maps are possible of"):
        find_layer(nn.Linear(2, 2), "linear", torch.zeros(1, 2))
    for arch, words in (("pit_ti_224", "of pit_ti_224, tuple, are not known to have them"),
                        ("twins_pcpvt_small", "timm lists none of twins_pcpvt_small")):
        model = make_timm(arch, (SIZE, SIZE), num_classes=2).eval()
        with pytest.raises(NoMaps, match=words):
            find_layer(model, arch, torch.randn(1, 3, SIZE, SIZE))
