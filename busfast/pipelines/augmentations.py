"""Augmentation by name, the values of the setting `augment` -> the image pipeline and fastai's batch transforms."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from fastai.torch_core import TensorImage
from fastai.vision.augment import (
    AffineCoordTfm,
    Brightness,
    Contrast,
    Warp,
    Zoom,
    affine_mat,
    flip_mat,
    mask_tensor,
    rotate_mat,
    setup_aug_tfms,
)
from fasttransform import Transform
from torchvision.transforms import GaussianBlur, RandomApply, RandomErasing

from busfast.pipelines.config import AUGMENTATIONS
from busfast.pipelines.image import ImagePipeline

MIN_SCALE, RATIO = 0.35, 4 / 3  # of a random crop: share of the image's area, and of width and height


class ImageByImage(Transform):
    """A transform of torchvision's that draws anew for each image of a training batch, after Normalize."""

    order, split_idx = 100, 0

    def __init__(self, transform: Any):
        self.transform = transform

    def encodes(self, x: TensorImage):
        return TensorImage(torch.stack([self.transform(image) for image in x.as_subclass(torch.Tensor)]))


def named_augmentation(names: Sequence[str], image: ImagePipeline) -> tuple[ImagePipeline, list]:
    """Returns the augmentation of the setting `augment`.

    Args:
        names: a level (key of `AUGMENTATIONS`), or parts of augmentation.
        image: the image pipeline, whose hflip, vflip and rotate say how much of `flip` and `rotate` there is.

    Returns:
        The image pipeline with the flips and the rotation that it does itself (as fast as can be), and fastai's batch
        transforms for everything, where other parts are asked for.
    """
    parts = [part for name in names for part in AUGMENTATIONS.get(name, [name])]
    flips = (image.hflip, image.vflip) if "flip" in parts else (0.0, 0.0)
    rotate = image.rotate if "rotate" in parts else 0.0
    if not set(parts) - {"flip", "rotate"}:
        return replace(image, hflip=flips[0], vflip=flips[1], rotate=rotate), []
    matrices: list[Callable] = [partial(flip_mat, p=flips[0]), partial(_upside_down, p=flips[1]),
                                partial(rotate_mat, max_deg=rotate, p=1.0)]
    if "crop" in parts:
        matrices.append(_crop)
    steps = [AffineCoordTfm(aff_fs=matrices), *(make() for name, make in _STEPS.items() if name in parts)]
    return replace(image, hflip=0.0, vflip=0.0, rotate=0.0), setup_aug_tfms(steps)


# fastai's `aug_transforms` has the same strengths.
_STEPS = {
    "zoom": lambda: Zoom(max_zoom=1.1, p=0.75),
    "warp": lambda: Warp(magnitude=0.2, p=0.75),
    "brightness": lambda: Brightness(max_lighting=0.2, p=0.75),
    "contrast": lambda: Contrast(max_lighting=0.2, p=0.75),
    "erase": lambda: ImageByImage(RandomErasing(p=0.25, scale=(0.02, 0.2), value="random")),
    "blur": lambda: ImageByImage(RandomApply([GaussianBlur(5, (0.1, 2.0))], p=0.1)),
}


def _upside_down(x: torch.Tensor, p: float) -> torch.Tensor:
    """Matrices, (N, 3, 3), that turn images upside down with probability `p`."""
    flip = mask_tensor(-x.new_ones(x.size(0)), p=p, neutral=1.0)
    zero, one = torch.zeros_like(flip), torch.ones_like(flip)
    return affine_mat(one, zero, zero, zero, flip, zero)


def _crop(x: torch.Tensor) -> torch.Tensor:
    """Matrices, (N, 3, 3), of torchvision's RandomResizedCrop, drawn for each image (fastai's on whole batches draws
    once for all of them)."""
    area, log_ratio, left, top = (x.new_empty(x.size(0)).uniform_(low, high) for low, high in (
        (MIN_SCALE, 1), (-1, 1), (-1, 1), (-1, 1)))
    ratio = RATIO ** log_ratio
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    zero = torch.zeros_like(area)
    return affine_mat(width, zero, left * (1 - width), zero, height, top * (1 - height))
