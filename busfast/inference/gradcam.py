"""Grad-CAM of any timm CNN, through captum."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
from fastai.learner import Learner
from PIL import Image
from torch import nn

from busfast.errors import UserError
from busfast.inference.load_bundle import Ensemble
from busfast.pipelines.augment import augment_and_normalize, collate
from busfast.pipelines.image import ImagePipeline
from busfast.progress import progress

OFFSET_FROM = 32  # images that it is measured on, where a cell looks
SPOT = 8  # pixels of a spot of `make_noise`


def last_maps(model: nn.Module, arch: str) -> nn.Module:
    """Returns the layer whose output Grad-CAM is made of: the last one of a CNN that still has rows and columns.

    Raises:
        UserError: the model is no CNN that timm knows the stages of.
    """
    stages = getattr(model, "feature_info", None)
    if not stages:
        raise UserError(f"Grad-CAM needs a CNN, and timm names no feature maps of {arch}. Explain a run of another "
                        "model, such as efficientnet_b0.")
    last = stages[-1] if isinstance(stages, list) else stages.info[-1]
    return model.get_submodule(last["module"])


def grad_cam(model: nn.Module, layer: nn.Module, x: torch.Tensor, targets: torch.Tensor,
             offset: tuple[int, int] = (0, 0)) -> np.ndarray:
    """Computes Grad-CAM maps, through captum.

    Args:
        model: in eval mode.
        layer: as `last_maps` returns it.
        x: (N, 3, H, W), normalised.
        targets: int64, (N,), the class that each map explains.
        offset: how far from its place a cell looks, as `find_offset` returns it.

    Returns:
        float, (N, H, W), from 0 to 1 (0 throughout where nothing speaks for the class).

    Raises:
        UserError: the layer gives no maps.

    Source:
        Selvaraju et al. 2017, "Grad-CAM" (arXiv 1610.02391).
    """
    from captum.attr import LayerAttribution, LayerGradCam

    maps = LayerGradCam(model, layer).attribute(x, target=targets, relu_attributions=True).detach()
    _check_maps(maps)
    maps = LayerAttribution.interpolate(maps, x.shape[2:], "bilinear")[:, 0].float().cpu().numpy()
    return _stretch(_shift(maps, offset))


def find_offset(model: nn.Module, layer: nn.Module, x: torch.Tensor) -> tuple[int, int]:
    """Measures how far from its place in the grid a cell of a layer looks, in pixels of the input: down, right.

    A convolution with a stride of 2 and a pixel of padding on either side looks around every second pixel, from the
    first one on, and not around the middle of two. After five of them that makes half a cell, and weights that were
    trained with another padding add to it: maps that are only stretched to the image lie too far down and right.

    Args:
        model: in eval mode.
        layer: as `last_maps` returns it.
        x: (N, 3, H, W), normalised; some dozen images, for each gives another answer.

    Returns:
        The middle of a cell's squared gradient, less the cell's own: median of the images and of the cells around the
        middle of the grid, half of them on either side, so that the image's edges draw to both sides alike.

    Raises:
        UserError: the layer gives no maps.
    """
    kept = []
    hook = layer.register_forward_hook(lambda module, given, out: kept.append(out))
    x = x.detach().requires_grad_()
    try:
        model(x)
    finally:
        hook.remove()
    maps, found = kept[0], []
    _check_maps(maps)
    for row, column in product(*({(side - 1) // 2, side // 2} for side in maps.shape[2:])):
        gradient, = torch.autograd.grad(maps[:, :, row, column].square().sum(), x, retain_graph=True)
        weight = gradient.square().sum(1).double()
        weight = weight[weight.sum((1, 2)) > 0]
        for axis, cell in ((1, row), (2, column)):
            along = weight.sum(3 - axis)
            middle = along @ torch.arange(x.shape[axis + 1], device=x.device).double() / along.sum(1)
            own = (cell + 0.5) * x.shape[axis + 1] / maps.shape[axis + 1] - 0.5
            found.append((axis, middle - own))
    both = (torch.cat([value for axis, value in found if axis == one]) for one in (1, 2))
    down, right = (round(float(values.median())) if len(values) else 0 for values in both)
    return down, right


def _check_maps(maps: torch.Tensor) -> None:
    if maps.ndim != 4:
        raise UserError(f"Grad-CAM needs feature maps with rows and columns; this model's have the shape "
                        f"{tuple(maps.shape)}. Explain a run of a CNN.")


def _stretch(maps: np.ndarray) -> np.ndarray:
    """Brings the highest value of each map, (N, H, W), to 1, where it is not 0."""
    most = maps.max((1, 2), keepdims=True)
    return np.divide(maps, most, out=np.zeros_like(maps), where=most > 0)


def _shift(maps: np.ndarray, offset: tuple[int, int]) -> np.ndarray:
    """Augmentation maps, (N, H, W), by some pixels; what comes in from outside is as the edge."""
    rows, columns = (np.clip(np.arange(side) - by, 0, side - 1)
                     for side, by in zip(maps.shape[1:], offset, strict=True))
    return maps[:, rows[:, None], columns]


class Explainer:
    """A model that can be asked for maps; where its cells look is measured once, when this is made.

    Of an ensemble the map is the mean of its members', each of which has the same say.

    Args:
        model: gives logits.
        arch: its timm name.
        image: its image pipeline.
        device: where it runs.
        some: fitted images, uint8 (S, S, 1 or 3) each, that `find_offset` measures on; the first `OFFSET_FROM`.

    Raises:
        UserError: as `last_maps`.
    """

    def __init__(self, model: nn.Module, arch: str, image: ImagePipeline, device: torch.device,
                 some: Sequence[np.ndarray]):
        self.image, self.device, self.members = image, device, []
        for one in model.members if isinstance(model.eval(), Ensemble) else [model]:
            layer = last_maps(one, arch)
            self.members.append((one, layer, find_offset(one, layer, self._ready(some[:OFFSET_FROM]))))

    def explain(self, pixels: Sequence[np.ndarray], targets: np.ndarray) -> np.ndarray:
        """Computes the map of each of a batch of fitted images, (n, S, S), for the given class; see `grad_cam`."""
        x = self._ready(pixels)
        targets = torch.as_tensor(targets, device=x.device)
        return _stretch(np.mean([grad_cam(model, layer, x, targets, offset) for model, layer, offset in self.members],
                                axis=0))

    def _ready(self, pixels: Sequence[np.ndarray]) -> torch.Tensor:
        return augment_and_normalize(collate(pixels).to(self.device), self.image)


def explain_images(learn: Learner, arch: str, pixels: Sequence[np.ndarray], targets: np.ndarray) -> np.ndarray:
    """Computes the map of each image, (n, S, S), for the given class; see `grad_cam`."""
    bs = learn.dls.valid.bs
    explainer = Explainer(learn.model, arch, learn.dls.valid.image, learn.dls.device, pixels)
    return np.concatenate([explainer.explain(pixels[start:start + bs], targets[start:start + bs])
                           for start in progress(range(0, len(pixels), bs), "explaining")])


def make_noise(image: ImagePipeline, count: int = 16) -> list[np.ndarray]:
    """Makes fitted images of soft gray spots, the same ones each time, for an `Explainer` that has no real images.

    Spots of `SPOT` pixels: of what was tried (dots, larger spots, 1/f noise, plain gray), the offset that
    `find_offset` measures on these came nearest to that of 32 ultrasound images, with an EfficientNet-B0: 3 pixels
    down and 4 to 8 right of it, with cells of 32; single ultrasound images are 10 to 20 apart.
    """
    rng, cells = np.random.default_rng(0), max(2, image.size // SPOT)
    return [np.asarray(Image.fromarray(rng.integers(0, 256, (cells, cells), np.uint8)).resize(
        (image.size, image.size), Image.Resampling.BICUBIC))[..., None] for _ in range(count)]
