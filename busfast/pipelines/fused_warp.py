"""fastai's aug_transforms on a CPU in one pass: every geometric transform is one homography, lighting and normalization
are one table of 256 values.

The random numbers are fastai's own, drawn by its own transforms. Pixels are rounded to 8 bits between the two, which
moves them by half of 1/255 at most, and OpenCV places samples to 1/32 of a pixel.
"""

from collections.abc import Sequence

import numpy as np
import torch
from fastai.data.transforms import IntToFloatTensor, Normalize
from fastai.torch_core import TensorImage, logit
from fastai.vision import augment as fastai_augment
from fastai.vision.augment import AffineCoordTfm, LightingTfm
from fasttransform import Transform

from busfast.pipelines.opencv import make_each, opencv, pixel_matrix

WARPS = (fastai_augment._WarpCoord,)
LIGHTS = (fastai_augment._BrightnessLogit, fastai_augment._ContrastLogit)
BORDERS = {"reflection": "BORDER_REFLECT_101", "border": "BORDER_REPLICATE", "zeros": "BORDER_CONSTANT"}


class FusedWarp:
    """fastai's IntToFloatTensor, AffineCoordTfm, LightingTfm and Normalize as one; the last two may be absent."""

    def __init__(self, affine: AffineCoordTfm, lighting: LightingTfm | None, normalize: Normalize | None):
        self.affine, self.lighting, self.normalize = affine, lighting, normalize

    @classmethod
    def of(cls, steps: Sequence[Transform]) -> "FusedWarp | None":
        """Returns the steps as one; None if they are others, or do what cannot be fused."""
        first, *others = steps or [None]
        if type(first) is not IntToFloatTensor or first.div != 255 or not others:
            return None
        affine, *others = others
        lighting = others.pop(0) if others and isinstance(others[0], LightingTfm) else None
        normalize = others.pop(0) if others and type(others[0]) is Normalize else None
        if others or not isinstance(affine, AffineCoordTfm) or affine.mode != "bilinear" \
                or affine.pad_mode not in BORDERS or not all(isinstance(one, WARPS) for one in affine.coord_fs) \
                or type(affine).__module__ != fastai_augment.__name__:  # a class of the user's may do more
            return None
        if lighting is not None and not all(isinstance(one, LIGHTS) for one in lighting.fs):
            return None
        return cls(affine, lighting, normalize) if opencv() is not None else None

    def __call__(self, pixels: np.ndarray) -> torch.Tensor:
        """Augments and normalizes a training batch, uint8 (N, H, W, 1 or 3); returns float32 (N, 3, h, w), channels
        last in memory."""
        count, height, width = pixels.shape[:3]
        proxy = TensorImage(torch.zeros(1).expand(count, 3, height, width))  # what the transforms need to draw
        self.affine.before_call(proxy, split_idx=0)
        size = (height, width) if self.affine.cp_size is None else self.affine.cp_size
        shrunk = self._shrunk(height, width, size)
        homographies = self._homographies(shrunk, size)
        tables = self._tables(proxy)
        result = np.empty((count, *size, 3), np.float32)

        def make(index: int) -> None:
            cv2, image = opencv(), pixels[index]
            if shrunk != (height, width):
                image = cv2.resize(image, shrunk[::-1], interpolation=cv2.INTER_AREA)
            image = cv2.warpPerspective(image, homographies[index], size[::-1],
                                        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                                        borderMode=getattr(cv2, BORDERS[self.affine.pad_mode]))
            cv2.LUT(image if image.ndim == 3 else cv2.merge([image] * 3), tables[index], result[index])

        make_each(make, count)
        return torch.from_numpy(result).permute(0, 3, 1, 2)

    def _shrunk(self, height: int, width: int, size: tuple[int, int]) -> tuple[int, int]:
        """fastai shrinks by area first what is more than twice as large as the result."""
        factor = min(height / size[0], width / size[1]) / 2
        return (height, width) if factor <= 1 else (int(height / factor), int(width / factor))

    def _homographies(self, source: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
        """Matrices from the result's pixels to the source's: float64, (N, 3, 3)."""
        matrices = torch.eye(3, dtype=torch.float64).repeat(len(self.affine.mat), 1, 1)
        matrices[:, :2] = self.affine.mat.as_subclass(torch.Tensor).double()
        for warp in self.affine.coord_fs:
            coefficients = fastai_augment.find_coeffs(warp.orig_pts, warp.targ_pts).as_subclass(torch.Tensor)
            last = torch.ones(len(matrices), 1, dtype=torch.float64)
            matrices = torch.cat([coefficients.double().flatten(1), last], 1).view(-1, 3, 3) @ matrices
        aligned = bool(self.affine.align_corners)
        return pixel_matrix(source, aligned) @ matrices.numpy() @ np.linalg.inv(pixel_matrix(size, aligned))

    def _tables(self, proxy: TensorImage) -> np.ndarray:
        """The result of each pixel value in each image and channel: float32, (N, 1, 256, 3)."""
        values = torch.linspace(0, 1, 256).expand(len(proxy), 1, 1, 256)
        if self.lighting is not None:
            self.lighting.before_call(proxy, split_idx=0)
            values = logit(values.clone())
            for change in self.lighting.fs:
                values = change(values)
            values = torch.sigmoid(values)
        values = values.as_subclass(torch.Tensor)[:, 0, :, :, None].expand(-1, -1, -1, 3)
        if self.normalize is not None:
            mean, std = (value.as_subclass(torch.Tensor).cpu().flatten() for value in
                         (self.normalize.mean, self.normalize.std))
            values = (values - mean) / std
        return values.contiguous().numpy()
