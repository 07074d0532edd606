"""The second half of an image pipeline: fitted pixels -> augmented, normalised floats, many images at once.

Plain torch, on whatever device the batch is, so that every loader and the cache share it. On a CPU, torch's sampling
is vectorised and DALI's and Pillow's are not: this turns 3 to 5 times as many images a second as theirs.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from busfast.pipelines.image import Augmentation, ImagePipeline

# Pixels worked on at once on a CPU: with what is made of them (28 bytes each) they stay in its cache from one operation
# to the next, which halves the time.
FIT = 400_000


def collate(images: Sequence[np.ndarray]) -> torch.Tensor:
    """Puts fitted images, uint8 (S, S, 1 or 3) each, into one tensor (N, S, S, C); C is 1 if all are gray, else 3."""
    channels = max(image.shape[2] for image in images)
    batch = np.empty((len(images), *images[0].shape[:2], channels), np.uint8)
    for place, image in zip(batch, images, strict=True):
        place[...] = image  # gray is repeated
    return torch.from_numpy(batch)


def augment_and_normalize(pixels: torch.Tensor, pipeline: ImagePipeline,
                          augmentation: Augmentation | None = None) -> torch.Tensor:
    """Augments and normalises a batch.

    Args:
        pixels: uint8, (N, S, S, 1 or 3), on any device.
        pipeline: gives mean and std.
        augmentation: the augmentation; None: none.

    Returns:
        float32, (N, 3, S, S), channels last in memory, on the same device.
    """
    result = torch.empty((*pixels.shape[:3], 3), device=pixels.device)
    matrices = None if augmentation is None else _matrices(augmentation).to(pixels.device)
    at_once = max(1, FIT // pixels.shape[1] ** 2) if pixels.device.type == "cpu" else len(pixels)
    for some in (slice(start, start + at_once) for start in range(0, len(pixels), at_once)):
        values = pixels[some].permute(0, 3, 1, 2).float()
        if matrices is not None:
            values = F.grid_sample(values, _grid(matrices[some], pixels.shape[1]), mode="bilinear",
                                   padding_mode="zeros", align_corners=False)
        # One pass over the memory for each channel: gray is repeated and normalised while it is written, channels last.
        for channel, (mean, std) in enumerate(zip(pipeline.mean, pipeline.std, strict=True)):
            source = values[:, channel if pixels.shape[3] == 3 else 0]
            torch.add(torch.tensor(-mean / std), source, alpha=1 / (255 * std), out=result[some, ..., channel])
    return result.permute(0, 3, 1, 2)


def _matrices(augmentation: Augmentation) -> torch.Tensor:
    """Where each pixel of the result comes from, in coordinates of -1 to 1: float32, (N, 2, 2)."""
    angle = np.deg2rad(augmentation.angle)
    cos, sin = np.cos(angle), np.sin(angle)
    x, y = np.where(augmentation.hflip, -1, 1), np.where(augmentation.vflip, -1, 1)
    return torch.from_numpy(np.array([[x * cos, -x * sin], [y * sin, y * cos]], np.float32).transpose(2, 0, 1).copy())


def _grid(matrices: torch.Tensor, side: int) -> torch.Tensor:
    """The same as torch's `affine_grid` of (N, 2, 2) matrices: float32, (N, side, side, 2)."""
    if matrices.device.type != "cpu":
        return F.affine_grid(F.pad(matrices, (0, 1)), [len(matrices), 1, side, side], align_corners=False)
    # An eighth of the time of affine_grid: with x and y as the parts of a complex number it is one addition.
    steps = (torch.arange(side) * 2 + 1) / side - 1
    columns = torch.view_as_complex(matrices.transpose(1, 2).contiguous())
    return torch.view_as_real((columns[:, 0, None] * steps)[:, None, :] + (columns[:, 1, None] * steps)[:, :, None])
