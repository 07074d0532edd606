"""Grad-CAM for any timm CNN, with captum."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
from fastai.learner import Learner
from PIL import Image
from torch import nn

from busfast.errors import UserError
from busfast.inference.load_bundle import Ensemble, Mirrored
from busfast.pipelines.augment import augment_and_normalize, collate
from busfast.pipelines.image import ImagePipeline
from busfast.progress import progress

OFFSET_IMAGES = 32  # at most, for `find_offset`
SPOT_PIXELS = 8  # of `make_noise_images`


def last_feature_layer(model: nn.Module, arch: str) -> nn.Module:
    """Returns a CNN's last layer with feature maps; raises UserError if timm lists none of the model."""
    stages = getattr(model, "feature_info", None)
    if not stages:
        raise UserError(f"Grad-CAM needs a CNN, but timm lists no feature maps of {arch}. Explain a run of another "
                        "model, such as efficientnet_b0.")
    last = stages[-1] if isinstance(stages, list) else stages.info[-1]
    return model.get_submodule(last["module"])


def grad_cam(model: nn.Module, layer: nn.Module, x: torch.Tensor, targets: torch.Tensor,
             offset: tuple[int, int] = (0, 0)) -> np.ndarray:
    """Computes Grad-CAM maps, (N, H, W), from 0 to 1 (all 0 if nothing supports the class), for x, (N, 3, H, W).
    `targets`: the class that each map explains; `offset`: from `find_offset`. UserError if the layer has no 2D maps.
    Source: Selvaraju et al. 2017, "Grad-CAM" (arXiv 1610.02391)."""
    from captum.attr import LayerAttribution, LayerGradCam

    maps = LayerGradCam(model, layer).attribute(x, target=targets, relu_attributions=True).detach()
    _check_maps(maps)
    maps = LayerAttribution.interpolate(maps, x.shape[2:], "bilinear")[:, 0].float().cpu().numpy()
    return _scale_to_1(_shift(maps, offset))


def find_offset(model: nn.Module, layer: nn.Module, x: torch.Tensor) -> tuple[int, int]:
    """Measures how far the receptive field of a layer's cell is off the cell, in pixels of the input: down, right.

    A convolution with a stride of 2 and a padding of 1 is centered on every second pixel, from the first one on, not
    between two pixels. After five of them that makes half a cell, and weights trained with another padding add to it:
    maps that are only resized to the image lie too far down and right.

    Args:
        model: in eval mode.
        layer: from `last_feature_layer`.
        x: (N, 3, H, W), normalized; some dozen images, for the result varies between images.

    Returns:
        The center of a cell's squared gradient, minus the cell's center: the median over images and the four cells (or
        fewer) around the center of the grid, which balances the effect of the image's edges.

    Raises:
        UserError: the layer's output has no rows and columns.
    """
    outputs = []
    hook = layer.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    x = x.detach().requires_grad_()
    try:
        model(x)
    finally:
        hook.remove()
    maps = outputs[0]
    offsets: tuple[list, list] = ([], [])  # down, right
    _check_maps(maps)
    for row, column in product(*({(side - 1) // 2, side // 2} for side in maps.shape[2:])):
        gradient, = torch.autograd.grad(maps[:, :, row, column].square().sum(), x, retain_graph=True)
        weight = gradient.square().sum(1).cpu().double()  # MPS has no double
        weight = weight[weight.sum((1, 2)) > 0]
        for axis, cell in enumerate((row, column)):
            along = weight.sum(2 - axis)
            center = along @ torch.arange(x.shape[axis + 2]).double() / along.sum(1)
            cell_center = (cell + 0.5) * x.shape[axis + 2] / maps.shape[axis + 2] - 0.5
            offsets[axis].append(center - cell_center)
    down, right = (round(float(values.median())) if len(values) else 0 for values in map(torch.cat, offsets))
    return down, right


def _check_maps(maps: torch.Tensor) -> None:
    if maps.ndim != 4:
        raise UserError(f"Grad-CAM needs feature maps with rows and columns; those of this model have the "
                        f"shape {tuple(maps.shape)}. Explain a run of a CNN.")


def _scale_to_1(maps: np.ndarray) -> np.ndarray:
    """Divides each map, (N, H, W), by its maximum, unless that is 0."""
    maxima = maps.max((1, 2), keepdims=True)
    return np.divide(maps, maxima, out=np.zeros_like(maps), where=maxima > 0)


def _shift(maps: np.ndarray, offset: tuple[int, int]) -> np.ndarray:
    """Shifts maps, (N, H, W), against an offset in pixels; the edge is repeated."""
    rows, columns = (np.clip(np.arange(side) - pixels, 0, side - 1)
                     for side, pixels in zip(maps.shape[1:], offset, strict=True))
    return maps[:, rows[:, None], columns]


class Explainer:
    """Explains a model with Grad-CAM; the offset of its maps is measured once, at the start.

    The map of an ensemble is the unweighted mean of its members' maps. `samples` are resized images, uint8
    (S, S, 1 or 3) each; the first `OFFSET_IMAGES` serve `find_offset`. Raises as `last_feature_layer`.
    """

    def __init__(self, model: nn.Module, arch: str, image: ImagePipeline, device: torch.device,
                 samples: Sequence[np.ndarray]):
        self.image, self.device, self.members = image, device, []
        model = model.model if isinstance(model.eval(), Mirrored) else model  # a mirror image would have its own map
        for member in model.members if isinstance(model, Ensemble) else [model]:
            layer = last_feature_layer(member, arch)
            self.members.append((member, layer, find_offset(member, layer, self._collate(samples[:OFFSET_IMAGES]))))

    def explain(self, pixels: Sequence[np.ndarray], targets: np.ndarray) -> np.ndarray:
        """Computes the maps, (n, S, S), of a batch of resized images for the given classes; see `grad_cam`."""
        x = self._collate(pixels)
        targets = torch.as_tensor(targets, device=x.device)
        maps = [grad_cam(member, layer, x, targets, offset) for member, layer, offset in self.members]
        return _scale_to_1(np.mean(maps, axis=0))

    def _collate(self, pixels: Sequence[np.ndarray]) -> torch.Tensor:
        return augment_and_normalize(collate(pixels).to(self.device), self.image)


def explain_images(learn: Learner, arch: str, pixels: Sequence[np.ndarray], targets: np.ndarray) -> np.ndarray:
    """Computes the maps, (n, S, S), of images for the given classes; see `grad_cam`."""
    bs = learn.dls.valid.bs
    explainer = Explainer(learn.model, arch, learn.dls.valid.image, learn.dls.device, pixels)
    return np.concatenate([explainer.explain(pixels[start:start + bs], targets[start:start + bs])
                           for start in progress(range(0, len(pixels), bs), "explaining")])


def make_noise_images(image: ImagePipeline, count: int = 16) -> list[np.ndarray]:
    """Makes images of soft gray spots, the same ones each time, for an `Explainer` without real images.

    Of the patterns tried (dots, spots of other sizes, 1/f noise, uniform gray), `find_offset` on these came nearest to
    its result on 32 ultrasound images, with an EfficientNet-B0: 3 pixels further down and 4 to 8 further right, with
    cells of 32; single ultrasound images differ by 10 to 20.
    """
    rng, cells = np.random.default_rng(0), tuple(max(2, side // SPOT_PIXELS) for side in image.sides)
    return [np.asarray(Image.fromarray(rng.integers(0, 256, cells, np.uint8)).resize(
        image.sides[::-1], Image.Resampling.BICUBIC))[..., None] for _ in range(count)]
