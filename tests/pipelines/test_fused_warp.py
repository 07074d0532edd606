"""fastai's batch transforms in one pass give what they give one by one, with the same random numbers.

Covers busfast/pipelines/opencv.py, too.
"""

import random

import numpy as np
import pytest
import torch
from fastai.data.transforms import IntToFloatTensor, Normalize
from fastai.torch_core import TensorImage
from fastai.vision.augment import (
    Brightness,
    Contrast,
    Dihedral,
    Flip,
    FlipItem,
    PadMode,
    Rotate,
    Warp,
    Zoom,
    aug_transforms,
    setup_aug_tfms,
)
from fastai.vision.core import imagenet_stats
from fasttransform import Pipeline

from busfast.pipelines.batch_tfms import BatchPipeline
from busfast.pipelines.fused_warp import FusedWarp
from busfast.pipelines.opencv import opencv

BATCH = {
    "aug_transforms": lambda: aug_transforms(), "presize": lambda: aug_transforms(size=40),
    "vertical": lambda: aug_transforms(flip_vert=True, max_rotate=45, pad_mode=PadMode.Zeros),
    "border": lambda: aug_transforms(pad_mode=PadMode.Border, align_corners=False), "flip": lambda: [Flip(0.5)],
    "oblong": lambda: aug_transforms(size=(32, 48)), "zoom": lambda: [Zoom(max_zoom=2.0, p=1.0)],
    "warp": lambda: [Warp(0.3, p=1.0)], "rotate, light": lambda: setup_aug_tfms([Rotate(30), Brightness(), Contrast()]),
    "strong": lambda: aug_transforms(mult=2.0), "dihedral": lambda: [Dihedral()],
}


@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("name", BATCH)
def test_one_pass_gives_what_fastais_transforms_give_with_the_same_random_numbers(name, normalized, gray):
    if opencv() is None:
        pytest.skip("no OpenCV")
    y, x = np.mgrid[0:60, 0:60] / 60
    waves = np.stack([np.sin(7 * x + k) * np.cos(5 * y - k) for k in range(3)])
    pixels = torch.from_numpy((127 + 100 * waves).astype(np.uint8))[None].repeat(6, 1, 1, 1)
    if gray:
        pixels = pixels[:, :1].expand(-1, 3, -1, -1)
    steps = [IntToFloatTensor(), *BATCH[name](), *([Normalize.from_stats(*imagenet_stats, cuda=False)]
                                                   if normalized else [])]
    results = []
    for kind in (Pipeline, BatchPipeline):
        torch.manual_seed(2), random.seed(2)
        results.append(kind(steps, split_idx=0)((TensorImage(pixels),))[0])
    assert FusedWarp.of(BatchPipeline(steps, split_idx=0)._steps()) is not None
    theirs, ours = results
    assert ours.shape == theirs.shape and type(ours) is TensorImage
    scale = 255 * (0.225 if normalized else 1)
    off = (ours - theirs).abs() * scale
    assert off.mean() < 1 and off.quantile(0.99) < 4
    moved = (theirs * (0.225 if normalized else 1)).std(0).mean()
    assert moved > 0.01  # the images of a batch differ


@pytest.mark.parametrize("steps", [
    [Rotate(10), Flip()], [Flip(mode="nearest")], [Brightness()],
    [Flip(), type("Own", (Flip,), {})()], [Flip(), FlipItem()],
])
def test_other_transforms_are_left_to_fastai(steps):
    assert FusedWarp.of([IntToFloatTensor(), *steps]) is None


def test_training_without_opencv_is_fastais_own(monkeypatch):
    monkeypatch.setattr("busfast.pipelines.fused_warp.opencv", lambda: None)
    pixels, steps = TensorImage(torch.randint(0, 256, (4, 3, 30, 30), dtype=torch.uint8)), [IntToFloatTensor(), Flip()]
    results = []
    for kind in (Pipeline, BatchPipeline):
        torch.manual_seed(2)
        results.append(kind(steps, split_idx=0)((pixels,))[0])
    assert torch.equal(*results)
