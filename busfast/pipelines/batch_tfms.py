"""What happens to a whole batch on its device: fastai's `after_batch`, with busfast's own steps in one pass.

The loader delivers TensorImage uint8, (N, 3, H, W). Then come IntToFloatTensor, `Augment`, the user's batch transforms
on pixels in 0 to 1, and fastai's Normalize. Where nothing of the user's stands between, `BatchPipeline` computes all of
it in one pass over the memory.
"""

from dataclasses import replace

import numpy as np
import torch
from fastai.data.transforms import IntToFloatTensor, Normalize
from fastai.torch_core import TensorImage, TensorImageBase
from fastai.vision.core import TensorPoint
from fasttransform import Pipeline, Transform

from busfast.pipelines.augment import augment, augment_and_normalize
from busfast.pipelines.image import Augmentation, ImagePipeline, sample_augmentation


class Augment(Transform):
    """The augmentation of an `ImagePipeline`, of training batches only.

    Attributes:
        image: the image pipeline; of it hflip, vflip and rotate are used.
        sampled: the augmentation of the next batch, which the DataLoader sets; None: it is sampled here.
    """

    order, split_idx = IntToFloatTensor.order + 1, 0

    def __init__(self, image: ImagePipeline):
        self.image, self.sampled = image, None

    def take(self, count: int) -> Augmentation:
        """Returns the augmentation of a batch of `count` images, once."""
        sampled, self.sampled = self.sampled, None
        return sampled or sample_augmentation(self.image, count, np.random.default_rng(torch.randint(2**31, ()).item()))

    def encodes(self, x: TensorImage):
        return augment(x, self.take(len(x)))


def make_normalize(mean: tuple[float, ...], std: tuple[float, ...]) -> Normalize:
    """Returns fastai's Normalize, on the CPU until a DataLoader moves it; `stats` are the numbers in full precision."""
    normalize = Normalize.from_stats(mean, std, cuda=False)
    normalize.stats = tuple(mean), tuple(std)
    return normalize


def stats_of(normalize: Normalize) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and std of fastai's Normalize, a number for each channel."""
    return getattr(normalize, "stats", None) or tuple(
        tuple(value.flatten().tolist()) for value in (normalize.mean, normalize.std))


class BatchPipeline(Pipeline):
    """fastai's Pipeline, with IntToFloatTensor, `Augment` and Normalize in one pass where only these apply."""

    def __call__(self, batch):
        image = self._fused(batch)
        if image is None:
            return super().__call__(batch)
        x, *targets = batch
        own = next((step for step in self._steps() if isinstance(step, Augment)), None)
        pixels = x.as_subclass(torch.Tensor).permute(0, 2, 3, 1)
        if x.stride(1) == 0:  # gray, repeated without a copy
            pixels = pixels[..., :1]
        return TensorImage(augment_and_normalize(pixels, image, own.take(len(x)) if own else None)), *targets

    def _steps(self) -> list[Transform]:
        return [step for step in self.fs if getattr(step, "split_idx", None) in (None, self.split_idx)
                and getattr(step, "name", "") != "noop"]

    def _fused(self, batch) -> ImagePipeline | None:
        """Returns mean and std for the one pass; None if fastai must run the steps one by one."""
        if not (isinstance(batch, tuple) and isinstance(batch[0], TensorImage) and batch[0].dtype == torch.uint8):
            return None
        if any(isinstance(target, TensorImageBase | TensorPoint) for target in batch[1:]):
            return None  # the steps change these, too
        first, *others = self._steps() or [None]
        kinds = [type(step) for step in others]
        if type(first) is not IntToFloatTensor or first.div != 255 or kinds not in (
                [], [Augment], [Normalize], [Augment, Normalize]):
            return None
        if Normalize not in kinds:
            return ImagePipeline()
        mean, std = stats_of(others[-1])
        return replace(ImagePipeline(), mean=mean, std=std) if len(mean) == len(std) == 3 else None
