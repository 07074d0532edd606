"""Grad-CAM for timm models whose last features have rows and columns: CNNs, Swin and its like, ViTs by their tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from fastai.learner import Learner
from PIL import Image
from torch import nn

from busfast.errors import UserError
from busfast.inference.cell_places import Places, even_places, measure_places, trace_places
from busfast.inference.load_bundle import Ensemble, Mirrored
from busfast.pipelines.augment import augment_and_normalize, collate
from busfast.pipelines.image import ImagePipeline
from busfast.progress import progress

PLACE_IMAGES = 16  # at most, for `find_places`
FINE = 6  # cells along each side; maps of fewer are called coarse
SPOT_PIXELS = 8  # of `make_noise_images`
OTHER = "Maps are possible of efficientnet_b0, convnext_tiny, swin_tiny_patch4_window7_224 or vit_tiny_patch16_224."


class NoMaps(UserError):
    """A model's features are not known to be maps, so that Grad-CAM might draw something that means nothing."""


@dataclass(frozen=True)
class Layer:
    """A layer whose output Grad-CAM weighs."""

    module: nn.Module
    as_maps: Callable[[torch.Tensor], torch.Tensor]  # its output -> (N, C, h, w)
    tokens: bool = False  # a cell is a patch of the image


def find_layer(model: nn.Module, arch: str, x: torch.Tensor) -> Layer:
    """Finds the last layer with features, and how they are laid out: (N, C, h, w), (N, h, w, C), or as tokens.

    That tokens are in the order of the image is checked against timm's own maps, as some models regroup them. If there
    are others, such as that of the class, those that enter the last block are taken, after its norm, for of those that
    leave it the others alone may count.

    Args:
        model: in eval mode.
        arch: its timm name, for the message.
        x: (N, 3, H, W), normalized; the first image is used.

    Raises:
        NoMaps: timm lists no features, or they are laid out in another way.
    """
    stages = getattr(model, "feature_info", None) or [{"module": None}]
    stage = stages[-1] if isinstance(stages, list) else stages.info[-1]
    module, channels = dict(model.named_modules()).get(stage["module"]), stage.get("num_chs")
    if module is None:
        raise NoMaps(f"Grad-CAM needs feature maps, but timm lists none of {arch}. {OTHER}")
    with torch.no_grad():
        output = _run(model, module, x[:1])[1]
        shape = tuple(output.shape) if isinstance(output, torch.Tensor) else ()
        if len(shape) == 4 and channels in (shape[1], shape[3]):
            last = channels == shape[3] and (channels != shape[1] or getattr(model, "output_fmt", "") == "NHWC")
            return Layer(module, _from_last if last else _as_they_are)
        if len(shape) == 3 and hasattr(model, "forward_intermediates"):
            (maps,), output = _run(partial(model.forward_intermediates, indices=1, intermediates_only=True), module,
                                   x[:1])
            as_maps = partial(_from_tokens, grid=tuple(maps.shape[2:]))
            others = shape[1] - maps[0, 0].numel()
            chosen = getattr(module, "norm1", None) if others else module
            if (others >= 0 and chosen is not None and _run(model, chosen, x[:1])[1].shape == shape
                    and torch.equal(as_maps(output), maps)):
                return Layer(chosen, as_maps, tokens=True)
    raise NoMaps(f"Grad-CAM needs features with rows and columns; those of {arch}, {shape or type(output).__name__}, "
                 f"are not known to have them. {OTHER}")


def _as_they_are(output: torch.Tensor) -> torch.Tensor:
    return output


def _from_last(output: torch.Tensor) -> torch.Tensor:
    return output.permute(0, 3, 1, 2)


def _from_tokens(output: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Returns the tokens of patches, which follow those of the class and registers, as maps."""
    return output[:, -grid[0] * grid[1]:].transpose(1, 2).unflatten(2, grid)


def _run(call: Callable[[torch.Tensor], Any], layer: nn.Module, x: torch.Tensor) -> tuple[Any, Any]:
    """Returns what `call` gives for x, and what the layer gave meanwhile (None: it was not used)."""
    outputs = [None]
    hook = layer.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    try:
        return call(x), outputs[-1]
    finally:
        hook.remove()


def grad_cam(model: nn.Module, layer: Layer, x: torch.Tensor, targets: torch.Tensor,
             places: Places) -> np.ndarray:
    """Computes Grad-CAM maps, (N, H, W), from 0 to 1 (all 0 if nothing supports the class), for x, (N, 3, H, W).
    `layer`: from `find_layer`; `targets`: the class that each map explains; `places`: from `find_places`.
    Source: Selvaraju et al. 2017, "Grad-CAM" (arXiv 1610.02391)."""
    logits, output = _run(model, layer.module, x.detach().requires_grad_())
    gradient, = torch.autograd.grad(logits.gather(1, targets[:, None]).sum(), output)
    weights = layer.as_maps(gradient).mean((2, 3), keepdim=True)
    maps = (weights * layer.as_maps(output.detach())).sum(1).relu().float().cpu().numpy()
    return _scale_to_1(places.spread(maps, tuple(x.shape[2:])))


def find_places(model: nn.Module, layer: Layer, x: torch.Tensor) -> Places:
    """Finds where in the image a layer's cells lie.

    A convolution with a stride of 2 and a padding of 1 is centered on every second pixel, from the first one on, not
    between two pixels. After five of them that makes half a cell, and weights trained with another padding add to it:
    maps that are only resized to the image lie too far down and right.

    Args:
        model: in eval mode.
        layer: from `find_layer`.
        x: (N, 3, H, W), normalized; all but the first serve only if places must be measured.
    """
    x = x.detach().requires_grad_()
    output = _run(model, layer.module, x)[1]
    maps = layer.as_maps(output)
    grid, sides = tuple(maps.shape[2:]), tuple(x.shape[2:])
    return trace_places(output, x, grid) or (even_places(sides, grid) if layer.tokens else measure_places(maps, x))


def _scale_to_1(maps: np.ndarray) -> np.ndarray:
    """Divides each map, (N, H, W), by its maximum, unless that is 0."""
    maxima = maps.max((1, 2), keepdims=True)
    return np.divide(maps, maxima, out=np.zeros_like(maps), where=maxima > 0)


class Explainer:
    """Explains a model with Grad-CAM; where the cells of its maps lie is found once, at the start.

    The map of an ensemble is the unweighted mean of its members' maps. `samples` are resized images, uint8
    (S, S, 1 or 3) each; the first `PLACE_IMAGES` serve `find_places`. `note` is what a reader of the maps must know.
    Raises as `find_layer`.
    """

    def __init__(self, model: nn.Module, arch: str, image: ImagePipeline, device: torch.device,
                 samples: Sequence[np.ndarray]):
        self.image, self.device, self.members = image, device, []
        model = model.model if isinstance(model.eval(), Mirrored) else model  # a mirror image would have its own map
        x = self._collate(samples[:PLACE_IMAGES])
        for member in model.members if isinstance(model, Ensemble) else [model]:
            layer = find_layer(member, arch, x)
            self.members.append((member, layer, find_places(member, layer, x)))
        rows, columns = min(places.grid for _, _, places in self.members)
        coarse = f"Coarse maps: {rows} x {columns} cells show a region, not a lesion's edge."
        measured = "Where cells look was measured, as it could not be computed."
        self.note = " ".join([coarse] * (min(rows, columns) < FINE)
                             + [measured] * any(places.measured for _, _, places in self.members))

    def explain(self, pixels: Sequence[np.ndarray], targets: np.ndarray) -> np.ndarray:
        """Computes the maps, (n, S, S), of a batch of resized images for the given classes; see `grad_cam`."""
        x = self._collate(pixels)
        targets = torch.as_tensor(targets, device=x.device)
        maps = [grad_cam(member, layer, x, targets, places) for member, layer, places in self.members]
        return _scale_to_1(np.mean(maps, axis=0))

    def _collate(self, pixels: Sequence[np.ndarray]) -> torch.Tensor:
        return augment_and_normalize(collate(pixels).to(self.device), self.image)


def explain_images(learn: Learner, arch: str, pixels: Sequence[np.ndarray],
                   targets: np.ndarray) -> tuple[np.ndarray, str]:
    """Computes the maps, (n, S, S), of images for the given classes; see `grad_cam`. And the note of `Explainer`."""
    bs = learn.dls.valid.bs
    explainer = Explainer(learn.model, arch, learn.dls.valid.image, learn.dls.device, pixels)
    maps = [explainer.explain(pixels[start:start + bs], targets[start:start + bs])
            for start in progress(range(0, len(pixels), bs), "explaining")]
    return np.concatenate(maps), explainer.note


def make_noise_images(image: ImagePipeline, count: int = 16) -> list[np.ndarray]:
    """Makes images of soft gray spots, the same ones each time, for an `Explainer` without real images."""
    rng, cells = np.random.default_rng(0), tuple(max(2, side // SPOT_PIXELS) for side in image.sides)
    return [np.asarray(Image.fromarray(rng.integers(0, 256, cells, np.uint8)).resize(
        image.sides[::-1], Image.Resampling.BICUBIC))[..., None] for _ in range(count)]
