"""Cells lie where they look: a map's peak is within half a cell of the only thing that there is to see."""

import numpy as np
import pytest
import torch
from conftest import ARCH
from torch import nn

from busfast.inference.cell_places import Places, measure_places
from busfast.inference.gradcam import Layer, find_layer, find_places, grad_cam
from busfast.models.arch import make_timm

SWIN = "swin_tiny_patch4_window7_224"
NOISES = 3  # patches of noise at each spot


class Same(nn.Module):
    """A 3 x 3 convolution of stride 2 whose padding depends on the size, as TensorFlow's."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, 2)

    def forward(self, x):
        pads = [side % 2 + 1 for side in x.shape[2:]]
        return self.conv(nn.functional.pad(x, [pads[1] // 2, pads[1] - pads[1] // 2, pads[0] // 2,
                                               pads[0] - pads[0] // 2]))


STACKS = {  # name -> modules, whose convolutions get equal weights; start and step by hand at 64 x 64
    "padded on both sides": (lambda: [nn.Conv2d(1, 1, 3, 2, 1), nn.Conv2d(1, 1, 5, 2, 2), nn.Conv2d(1, 1, 3, 2, 1)],
                             0, 8),
    "padded on the right": (lambda: [Same(), Same(), Same()], 1 + 2 + 4, 8),
    "not padded": (lambda: [nn.Conv2d(1, 1, 3, 2), nn.Conv2d(1, 1, 3), nn.MaxPool2d(2)], 1 + 2 + 1, 4),
    "dilated": (lambda: [nn.Conv2d(1, 1, 3, 2, 2, dilation=2), nn.AvgPool2d(3, 2, 1)], 0, 4),
    "patches": (lambda: [nn.Conv2d(1, 1, 8, 8)], 3.5, 8),
}


def make_stack(name):
    """A model of one channel whose only logit is the sum of the maps."""
    features = nn.Sequential(nn.Conv2d(3, 1, 1), *STACKS[name][0]())
    for module in features.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 0.1)
            nn.init.zeros_(module.bias)
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten()), Layer(features, lambda output: output)


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("sides", [(64, 64), (61, 90), (75, 50)])
def test_the_peak_of_a_map_is_within_half_a_cell_of_the_only_bright_spot(name, sides):
    model, layer = make_stack(name)
    places = find_places(model, layer, torch.rand(2, 3, *sides))
    assert not places.measured
    if sides == (64, 64):
        assert places.start == pytest.approx((STACKS[name][1],) * 2) and places.step == (STACKS[name][2],) * 2
    spots = [(row, column) for row in range(0, sides[0], 5) for column in range(0, sides[1], 5)]
    x = torch.zeros(len(spots), 3, *sides)
    axes = [np.arange(side) for side in sides]
    for image, (row, column) in zip(x, spots, strict=True):  # a soft spot: a single pixel falls between strides
        near = np.exp(-((axes[0][:, None] - row) ** 2 + (axes[1] - column) ** 2) / 2 / (places.step[0] / 3) ** 2)
        image[:] = torch.from_numpy(near).float()
    maps = grad_cam(model, layer, x, torch.zeros(len(spots), dtype=torch.long), places)
    assert farthest(maps, spots, places) <= 0.5


def farthest(maps, spots, places):
    """How far the peaks of maps lie from spots, in cells, less the pixel to which a peak is rounded.
    Beyond the outermost cells none can be nearer than these."""
    distances = []
    for axis, (start, step, cells) in enumerate(zip(places.start, places.step, places.grid, strict=True)):
        peaks = np.array([np.unravel_index(each.argmax(), each.shape)[axis] for each in maps])
        nearest = np.clip([spot[axis] for spot in spots], start, start + step * (cells - 1))
        distances += [(abs(peaks - nearest).max() - 1) / step]
    return max(distances)


@pytest.mark.parametrize("arch", ["test_resnet", ARCH, "test_mambaout", "test_vit", SWIN])
@pytest.mark.parametrize("sides", [(128, 128), (97, 131)])
def test_the_cells_of_timm_models_lie_where_the_image_changes(arch, sides):
    if arch in ("test_vit", SWIN) and sides[0] % 16:
        sides = (96, 144)  # whole patches
    options = {"depths": (1, 1), "embed_dim": 16, "num_heads": (1, 2), "window_size": 4} if arch == SWIN else {}
    model = make_timm(arch, sides, num_classes=2, **options).eval()
    layer = find_layer(model, arch, torch.zeros(1, 3, *sides))
    places = find_places(model, layer, torch.randn(4, 3, *sides))
    assert places.measured == (arch == SWIN)  # it merges patches by reshaping
    spots = [(row, column) for row in range(8, sides[0] - 7, 16) for column in range(8, sides[1] - 7, 16)]
    x = torch.zeros(1 + NOISES * len(spots), 3, *sides)
    for image, (row, column) in zip(x[1:], spots * NOISES, strict=True):
        image[:, row - 8:row + 8, column - 8:column + 8] = torch.randn(3, 16, 16) * 3
    outputs = []
    layer.module.register_forward_hook(lambda _, __, output: outputs.append(layer.as_maps(output)))
    with torch.no_grad():
        model(x)
    changes = (outputs[0][1:] - outputs[0][0]).square().sum(1).numpy()
    changes = changes.reshape(NOISES, len(spots), *places.grid).mean(0)
    assert farthest(places.spread(changes, sides), spots, places) <= 0.5


def test_the_padding_of_models_from_tensorflow_is_the_one_that_took_place():
    model = make_timm("tf_mobilenetv3_small_minimal_100", (128, 128), num_classes=2).eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.ones_(module.weight)
    layer = find_layer(model, "", torch.zeros(1, 3, 128, 128))
    places = find_places(model, layer, torch.zeros(1, 3, 128, 97))
    assert places == Places((31, 0), (32, 32), (4, 4))  # five strides of 2, of even sides and of odd ones


def test_weights_that_look_to_one_side_move_a_cell():
    conv = nn.Conv2d(3, 1, 3, 2, 1)
    nn.init.zeros_(conv.weight)
    conv.weight.data[:, :, 0, 2] = 1  # sees only the pixel up and right of the middle
    places = find_places(conv, Layer(conv, lambda output: output), torch.zeros(1, 3, 20, 20))
    assert places.start == (-1, 1)


@pytest.mark.parametrize("name", ["padded on both sides", "padded on the right", "dilated", "patches"])
@pytest.mark.parametrize("sides", [(64, 64), (61, 90)])
def test_what_cannot_be_computed_is_measured_to_half_a_cell(name, sides):
    model, layer = make_stack(name)
    x = torch.rand(2, 3, *sides).requires_grad_()
    maps = layer.module(x)
    found, true = measure_places(maps, x), find_places(model, layer, x)
    for axis, cells in enumerate(found.grid):
        middle = [places.start[axis] + places.step[axis] * (cells - 1) / 2 for places in (found, true)]
        assert abs(middle[0] - middle[1]) <= true.step[axis] / 2


def test_maps_have_no_stripes_at_the_borders():
    maps = np.zeros((1, 4, 4), np.float32)
    maps[0, 3] = maps[0, :, 3] = 1
    spread = Places((0, 0), (32, 32), (4, 4)).spread(maps, (128, 128))[0]
    assert (np.diff(spread[100, 96:]) < 0).all() and (np.diff(spread[96:, 100]) < 0).all()
    assert spread[96, 96] == 1 and spread[127, 40] > 0.5  # it fades, but is not gone
