"""fastai's item transforms -> what is kept of an image, the random part of an epoch, and what fastai must run itself.

A deterministic transform runs once, as the user made it, and its result is kept. Of the first random one, Resize and
RandomResizedCrop are computed here on what is kept: an image as large as that needs. Whatever comes after runs image by
image. The random numbers come from the caller, so that a seed gives the same images whatever the threads.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from fastai.data.transforms import ToTensor
from fastai.vision.augment import CropPad, RandomCrop, RandomResizedCrop, RatioResize, Resize, ResizeMethod
from fastai.vision.core import PILImageBW
from fasttransform import Transform
from PIL import Image

from busfast.data.images import READING, drop_equal_channels
from busfast.pipelines.batch_tfms import is_noop
from busfast.pipelines.cache import Form, library_versions

ATTEMPTS = 10  # of RandomResizedCrop, to draw a crop that lies within the image
PAD_MODES = {"zeros": "constant", "border": "edge", "reflection": "reflect"}  # fastai's name -> NumPy's


@dataclass(frozen=True)
class RandomPart:
    """A random item transform, and what of an image it needs.

    Attributes:
        key: what determines the kept image, as JSON values.
        size: of the kept image, for messages; 0: the file's own.
        scale: (width, height) of an image -> those of the kept one.
        resample: Pillow's filter for that.
        numbers: how many random numbers an image needs.
        apply: (pixels, uint8 (H, W, C); numbers, in 0 to 1) -> uint8 (height, width, C).
    """

    key: list
    size: int
    scale: Callable[[int, int], tuple[int, int]]
    resample: Any
    numbers: int
    apply: Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class ItemPlan:
    """How the images of a part are made; `rest`: the transforms that fastai runs image by image."""

    form: Form
    random: RandomPart | None
    rest: tuple[Transform, ...]


def plan_items(steps: Sequence[Transform], training: bool, kind: Any,
               target: tuple[int, int] | None = None) -> ItemPlan:
    """Plans a part's images.

    Args:
        steps: the transforms of `after_item`, in order.
        training: whether random transforms are random.
        kind: the class that opens the images, PILImage or PILImageBW.
        target: (width, height) to which the batch transforms resample.
    """
    split_idx = 0 if training else 1
    left = [step for step in steps if not (isinstance(step, ToTensor) or is_noop(step))
            and step.split_idx in (None, split_idx)]
    baked = []
    while left and _is_deterministic(left[0], training):
        baked.append(left.pop(0))
    random = _random_part(left[0], target if len(left) == 1 else None) if left and training else None
    if random:
        left.pop(0)
    sides = [side for step in baked for side in getattr(step, "size", ())]
    meta = {"size": random.size if random else max(sides, default=0), "kind": kind.__name__, "reading": READING,
            "form": [[type(step).__name__, _settings(step)] for step in baked] + ([random.key] if random else [])}
    form = Form(meta | library_versions(), partial(_load, kind=kind, baked=baked, split_idx=split_idx, random=random),
                partial(_area, sides=sides, random=random), kind is PILImageBW)
    return ItemPlan(form, random, tuple(left))


def _random_part(step: Transform, target: tuple[int, int] | None) -> RandomPart | None:
    """Returns a random transform that is computed here; None for any other."""
    if type(step) is Resize and step.p == 1:
        size, inside = _shrunk(step.size, target), step.method == ResizeMethod.Pad
        return RandomPart(["around", *size, inside, str(step.mode)], max(size), partial(_scale_to, size, inside),
                          step.mode, 2, partial(_window, size=size, pad_mode=PAD_MODES[step.pad_mode]))
    if type(step) is RandomResizedCrop and step.p == 1:
        shorter = math.ceil(max(step.size) / math.sqrt(step.min_scale))  # so that the smallest crop is not enlarged
        return RandomPart(["at most", shorter, str(step.mode)], shorter, partial(_scale_down, shorter), step.mode,
                          2 * ATTEMPTS + 2, partial(_resized_crop, step=step))
    return None


def _is_deterministic(step: Transform, training: bool) -> bool:
    if type(step) in (CropPad, RatioResize):
        return True
    if type(step) is Resize and step.p == 1:
        return not training or step.method == ResizeMethod.Squish
    return not training and type(step) in (RandomCrop, RandomResizedCrop) and step.p == 1


def _settings(step: Transform) -> dict[str, str]:
    names = inspect.signature(type(step).__init__).parameters
    return {name: str(getattr(step, name)) for name in names if hasattr(step, name)}


def _load(path: Any, kind: Any, baked: Sequence[Transform], split_idx: int, random: RandomPart | None) -> np.ndarray:
    """Opens an image as fastai does and makes what is kept of it: uint8 (H, W, 1 or 3)."""
    image = kind.create(path)
    for step in baked:
        image = copy(step)(image, split_idx=split_idx)  # a copy: it remembers the image's size
    if random and (size := random.scale(*image.size)) != image.size:
        image = image.resize(size, random.resample)
    return drop_equal_channels(np.asarray(image))


def _area(width: int, height: int, sides: list[int], random: RandomPart | None) -> float:
    """Pixels of what is kept of an image, about."""
    width, height = random.scale(width, height) if random else (width, height)
    return max(sides) ** 2 if sides else width * height


def _shrunk(size: tuple[int, int], target: tuple[int, int] | None) -> tuple[int, int]:
    """fastai's resampling shrinks by area first what is more than twice as large as its result; here that is kept."""
    factor = max(1.0, min(one / other for one, other in zip(size, target, strict=True)) / 2) if target else 1.0
    return int(size[0] / factor), int(size[1] / factor)


def _scale_to(size: tuple[int, int], inside: bool, width: int, height: int) -> tuple[int, int]:
    """The size, in the image's proportions, that just covers `size`, or fits inside it."""
    factors = size[0] / width, size[1] / height
    if inside:
        factor = min(factors)
        return min(size[0], max(1, round(width * factor))), min(size[1], max(1, round(height * factor)))
    factor = max(factors)
    return max(size[0], round(width * factor)), max(size[1], round(height * factor))


def _scale_down(shorter: float, width: int, height: int) -> tuple[int, int]:
    """The size whose shorter side is at most `shorter`."""
    factor = min(1.0, shorter / min(width, height))
    return max(1, round(width * factor)), max(1, round(height * factor))


def _window(pixels: np.ndarray, numbers: np.ndarray, size: tuple[int, int], pad_mode: str) -> np.ndarray:
    """A window of `size` (width, height) at a random place; what lies outside of the image is padded."""
    starts = [int(number * (length - wanted)) for number, length, wanted in
              zip(numbers, (pixels.shape[1], pixels.shape[0]), size, strict=True)]
    (left, top), (width, height) = starts, size
    inner = pixels[max(0, top):top + height, max(0, left):left + width]
    if inner.shape[:2] == (height, width):
        return inner
    before = max(0, -top), max(0, -left)
    after = height - inner.shape[0] - before[0], width - inner.shape[1] - before[1]
    return np.pad(inner, [(before[0], after[0]), (before[1], after[1]), (0, 0)], mode=pad_mode)


def _resized_crop(pixels: np.ndarray, numbers: np.ndarray, step: RandomResizedCrop) -> np.ndarray:
    """What RandomResizedCrop does, from the same distribution."""
    height, width = pixels.shape[:2]
    left, top, right, bottom = _random_box(width, height, numbers, step)
    crop = pixels[top:bottom, left:right]
    resized = np.asarray(Image.fromarray(crop[..., 0] if crop.shape[2] == 1 else crop).resize(step.size, step.mode))
    return resized[..., None] if resized.ndim == 2 else resized


def _random_box(width: int, height: int, numbers: np.ndarray, step: RandomResizedCrop) -> tuple[int, int, int, int]:
    low, high = (math.log(value) for value in step.ratio)
    for area, shape in numbers[:2 * ATTEMPTS].reshape(-1, 2):
        area = (step.min_scale + area * (step.max_scale - step.min_scale)) * width * height
        ratio = math.exp(low + shape * (high - low))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = (min(int(number * (room + 1)), room) for number, room in
                         zip(numbers[-2:], (width - w, height - h), strict=True))
            return left, top, left + w, top + h
    w, h = width, height
    if width / height < step.ratio[0]:
        h = int(width / step.ratio[0])
    elif width / height > step.ratio[1]:
        w = int(height * step.ratio[1])
    return (width - w) // 2, (height - h) // 2, (width - w) // 2 + w, (height - h) // 2 + h
