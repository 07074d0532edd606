"""The second half of an image pipeline: resized pixels -> augmented, normalized floats, a batch at a time.

On the device of the batch, shared by every loader and the cache; on a CPU, OpenCV warps most of them, in threads.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from busfast.pipelines.devices import memory_format
from busfast.pipelines.image import Augmentation, ImagePipeline
from busfast.pipelines.opencv import make_each, opencv, pixel_matrix

# Pixels processed at once on a CPU: with their intermediate results (28 bytes each) they stay in its cache between
# operations, which halves the time.
CHUNK = 400_000


def collate(images: Sequence[np.ndarray]) -> torch.Tensor:
    """Collates resized images, uint8 (H, W, 1 or 3), to a tensor (N, H, W, C); C is 1 if all are gray, else 3."""
    channels = max(image.shape[2] for image in images)
    batch = np.empty((len(images), *images[0].shape[:2], channels), np.uint8)
    for target, image in zip(batch, images, strict=True):
        target[...] = image  # repeats gray
    return torch.from_numpy(batch)


def augment_and_normalize(pixels: torch.Tensor, pipeline: ImagePipeline,
                          matrices: torch.Tensor | None = None) -> torch.Tensor:
    """Augments a batch, uint8 (N, H, W, 1 or 3), by `affine_matrices` (None: not), and normalizes it, on its device.
    Of `pipeline` only mean and std are used. Returns float32 (N, 3, H, W), in the layout of `memory_format`."""
    result = torch.empty((*pixels.shape[:3], 3), device=pixels.device)
    equal = len({*zip(pipeline.mean, pipeline.std, strict=True)}) == 1
    if matrices is not None and pixels.device.type == "cpu" and (equal or pixels.shape[3] == 3) and opencv():
        _warp_each(pixels.numpy(), pipeline, matrices.numpy(), result.numpy())
        return result.permute(0, 3, 1, 2)
    for chunk in _chunks(pixels):
        values = pixels[chunk].permute(0, 3, 1, 2).float()
        if matrices is not None:
            values = _sample(values, matrices[chunk])
        # One pass over the memory per channel: repeats and normalizes gray while writing, channels last.
        for channel, (mean, std) in enumerate(zip(pipeline.mean, pipeline.std, strict=True)):
            source = values[:, channel if pixels.shape[3] == 3 else 0]
            torch.add(torch.tensor(-mean / std), source, alpha=1 / (255 * std), out=result[chunk, ..., channel])
    return result.permute(0, 3, 1, 2).contiguous(memory_format=memory_format(pixels.device))


def _warp_each(pixels: np.ndarray, pipeline: ImagePipeline, matrices: np.ndarray, result: np.ndarray) -> None:
    """The same on a CPU, image by image, into `result`, (N, H, W, 3): a table of normalized values, then a warp; gray,
    whose three channels must come out equal, is repeated last."""
    cv2, (height, width, channels) = opencv(), pixels.shape[1:]
    values = (np.arange(256)[:, None] / 255 - pipeline.mean) / pipeline.std
    table = values[None, :, :channels].astype(np.float32)
    place, warps = pixel_matrix((height, width)), np.eye(3)[None].repeat(len(pixels), 0)
    warps[:, :2, :2] = matrices
    warps = (place @ warps @ np.linalg.inv(place))[:, :2]

    def make(index: int) -> None:
        image = cv2.warpAffine(cv2.LUT(pixels[index], table), warps[index], (width, height),
                               result[index] if channels == 3 else None, cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                               borderValue=table[0, 0].tolist())
        if channels == 1:
            cv2.cvtColor(image, cv2.COLOR_GRAY2RGB, result[index])

    make_each(make, len(pixels))


def augment(pixels: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    """Augments a batch, float32 (N, 3, H, W), by `affine_matrices`, on its device; returns the same, of the same
    class."""
    values = pixels.as_subclass(torch.Tensor)
    parts = [_sample(values[chunk], matrices[chunk]) for chunk in _chunks(values)]
    return torch.cat(parts).as_subclass(type(pixels)) if parts else pixels


def _chunks(pixels: torch.Tensor) -> list[slice]:
    """Returns slices of a batch (N, H, W, C) or (N, C, H, W) that are processed at once."""
    area = math.prod(sorted(pixels.shape[1:])[1:])  # without the channels
    size = max(1, CHUNK // area) if pixels.device.type == "cpu" else max(1, len(pixels))
    return [slice(start, start + size) for start in range(0, len(pixels), size)]


def _sample(values: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    return F.grid_sample(values, _grid(matrices, *values.shape[2:]), mode="bilinear", padding_mode="zeros",
                         align_corners=False)


def affine_matrices(augmentation: Augmentation, height: int, width: int) -> torch.Tensor:
    """Returns matrices from result to source coordinates, -1 to 1: float32, (N, 2, 2), on the CPU."""
    angle = np.deg2rad(augmentation.angle)
    cos, sin = np.cos(angle), np.sin(angle)
    x, y = np.where(augmentation.hflip, -1, 1), np.where(augmentation.vflip, -1, 1)
    # Coordinates are shares of height and width: a rotation must not change shapes where these differ.
    matrices = np.array([[x * cos, -x * sin * (height / width)], [y * sin * (width / height), y * cos]], np.float32)
    return torch.from_numpy(matrices.transpose(2, 0, 1).copy())


def _grid(matrices: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Returns torch's `affine_grid` of (N, 2, 2) matrices: float32, (N, height, width, 2)."""
    if matrices.device.type != "cpu":
        return F.affine_grid(F.pad(matrices, (0, 1)), [len(matrices), 1, height, width], align_corners=False)
    # An eighth of affine_grid's time: with x and y as parts of a complex number it is one addition.
    down, across = ((torch.arange(side) * 2 + 1) / side - 1 for side in (height, width))
    columns = torch.view_as_complex(matrices.transpose(1, 2).contiguous())
    return torch.view_as_real((columns[:, 0, None] * across)[:, None, :] + (columns[:, 1, None] * down)[:, :, None])
