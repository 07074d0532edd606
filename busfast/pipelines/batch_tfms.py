"""What happens to a whole batch on its device: fastai's `after_batch`, with busfast's own steps in one pass.

The loader delivers TensorImage uint8, (N, 3, H, W). Then come IntToFloatTensor, `Augment`, the user's batch transforms
on pixels in 0 to 1, and fastai's Normalize. Where nothing of the user's stands between, `BatchPipeline` computes all of
it in one pass over the memory.
"""

import numpy as np
import torch
from fastai.data.transforms import IntToFloatTensor, Normalize
from fastai.torch_core import TensorImage, TensorImageBase
from fastai.vision.augment import AffineCoordTfm
from fastai.vision.core import TensorPoint
from fasttransform import Pipeline, Transform

from busfast.pipelines.augment import affine_matrices, augment, augment_and_normalize
from busfast.pipelines.fused_warp import FusedWarp
from busfast.pipelines.image import ImagePipeline, sample_augmentation
from busfast.pipelines.transfer import send


class Augment(Transform):
    """The augmentation of an `ImagePipeline`, of training batches only.

    Attributes:
        image: the image pipeline; of it hflip, vflip and rotate are used.
        sampled: the augmentation of the next batch, as `affine_matrices`, on its device, which the DataLoader sets;
            None: it is sampled here.
    """

    order, split_idx = IntToFloatTensor.order + 1, 0

    def __init__(self, image: ImagePipeline):
        self.image, self.sampled = image, None

    def take(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the augmentation of a batch, (N, 3, H, W), once."""
        sampled, self.sampled = self.sampled, None
        if sampled is None or len(sampled) != len(x):  # called by hand, on a batch of the user's own
            rng = np.random.default_rng(torch.randint(2**31, ()).item())
            sampled = send(affine_matrices(sample_augmentation(self.image, len(x), rng), *x.shape[2:]), x.device)
        return sampled

    def encodes(self, x: TensorImage):
        return augment(x, self.take(x))


def is_noop(step: Transform) -> bool:
    """Whether a step is what fastai puts into an empty pipeline. (The name of others holds their settings, which takes
    time to format.)"""
    return type(step) is Transform and step.name == "noop"


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
    """fastai's Pipeline, with IntToFloatTensor, `Augment` and Normalize in one pass where only these apply; in another
    one (`FusedWarp`), what `aug_transforms` returns."""

    def __call__(self, batch):
        if not _is_pixels(batch):
            return super().__call__(batch)
        x, *targets = batch
        pixels = x.as_subclass(torch.Tensor).permute(0, 2, 3, 1)
        if x.stride(1) == 0:  # gray, repeated without a copy
            pixels = pixels[..., :1]
        steps = self._steps()
        if (image := _own_stats(steps)) is not None:
            own = next((step for step in steps if isinstance(step, Augment)), None)
            return TensorImage(augment_and_normalize(pixels, image, own.take(x) if own else None)), *targets
        # Some steps, such as erasing, come after Normalize.
        end = next((index for index, step in enumerate(steps, 1) if type(step) is Normalize), len(steps))
        if self.split_idx == 0 and len(x) and x.device.type == "cpu" and (warp := FusedWarp.of(steps[:end])):
            batch = TensorImage(warp(pixels.numpy())), *targets
            for step in steps[end:]:
                batch = step(batch, split_idx=self.split_idx)
            return batch
        return super().__call__(batch)

    def _steps(self) -> list[Transform]:
        """The steps that run in this part of the data."""
        return [step for step in self.fs if not is_noop(step) and (
            isinstance(step, AffineCoordTfm)  # its split_idx is the part that it last saw
            or step.split_idx in (None, self.split_idx))]


def _own_stats(steps: list[Transform]) -> ImagePipeline | None:
    """Returns mean and std if there are no other steps than busfast's own."""
    first, *others = steps or [None]
    kinds = [type(step) for step in others]
    if type(first) is not IntToFloatTensor or first.div != 255 or kinds not in (
            [], [Augment], [Normalize], [Augment, Normalize]):
        return None
    if Normalize not in kinds:
        return ImagePipeline()
    mean, std = stats_of(others[-1])
    return ImagePipeline(mean=mean, std=std) if len(mean) == len(std) == 3 else None


def _is_pixels(batch) -> bool:
    """Whether a batch is RGB pixels, as a loader delivers them, with targets that no step changes."""
    return isinstance(batch, tuple) and type(batch[0]) is TensorImage and batch[0].dtype == torch.uint8 \
        and batch[0].ndim == 4 and batch[0].shape[1] == 3 \
        and not any(isinstance(target, TensorImageBase | TensorPoint) for target in batch[1:])
