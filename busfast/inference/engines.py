"""Engines turn images into logits: torch, ONNX Runtime, or a fastai learner. Each reads an image and infers a batch."""

import warnings
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from fastai.learner import Learner, load_learner
from PIL import Image
from torch import nn

from busfast.data.images import load_pixels, read_image
from busfast.errors import UserError
from busfast.imports import require_package
from busfast.inference.fold_batchnorm import fold_batchnorm
from busfast.inference.load_bundle import Mirrored
from busfast.pipelines.augment import augment_and_normalize, collate
from busfast.pipelines.devices import memory_format
from busfast.pipelines.image import ImagePipeline
from busfast.pipelines.transfer import send

INSTALL_ONNX = "pip install onnx onnxscript onnxruntime"
STAGES, OLD_STAGES = 4, 3  # whose feature maps describe an image; in bundles that do not say it


class Outputs(NamedTuple):
    """The outputs for N images."""

    logits: np.ndarray  # float32, (N, classes)
    features: np.ndarray | None  # float32, (N, d), see `WithFeatures`; None: the engine has none


class TorchEngine:
    """A model in torch that returns logits, and the features of that many stages (`WithFeatures`); `gray`: see
    `in_gray`."""

    def __init__(self, model: nn.Module, image: ImagePipeline, device: torch.device, features: int = 0,
                 gray: bool = False):
        self.image, self.device, self.features, self.gray = image, device, features, gray
        self.model = model.eval().to(device, memory_format=memory_format(device))

    @cached_property
    def folded_model(self) -> nn.Module:
        """The model with folded batch normalization."""
        if isinstance(self.model, Mirrored):  # it calls each convolution twice, which hides its normalization
            model = Mirrored(fold_batchnorm(self.model.model, self.image.sides), self.model.multi_label)
        else:
            model = fold_batchnorm(self.model, self.image.sides)
        return WithFeatures(model, self.features) if self.features else model

    def read(self, path: str | Path) -> np.ndarray:
        """Returns the resized pixels of an image, uint8 (height, width, 1 or 3); raises as `load_pixels`."""
        return load_pixels(path, *self.image.fit)

    def infer(self, images: Sequence[np.ndarray]) -> Outputs:
        """Returns the outputs for images from `read`."""
        return in_gray(self._infer, images) if self.gray else self._infer(images)

    def _infer(self, images: Sequence[np.ndarray]) -> Outputs:
        with torch.inference_mode():
            x = augment_and_normalize(send(collate(images), self.device), self.image)
            logits, features = self.folded_model(x) if self.features else (self.folded_model(x), None)
        return Outputs(_to_numpy(logits), None if features is None else _to_numpy(features))


class OnnxEngine:
    """A model in ONNX Runtime, on the CPU; raises UserError if that is not installed, or cannot read the file.

    `content` is model.onnx, with the output `logits` and, optionally, `features`. 0 `threads`: one per core; `gray`:
    see `in_gray`.
    """

    def __init__(self, content: bytes, image: ImagePipeline, threads: int = 0, gray: bool = False):
        require_package("onnxruntime", "--engine=onnx needs ONNX Runtime", INSTALL_ONNX)
        import onnxruntime

        self.image, self.gray, options = image, gray, onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        try:
            self.session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its error classes share no base
            raise UserError(f"ONNX Runtime cannot read model.onnx: {str(error)[:200]}. Export it again.") from error

    read = TorchEngine.read

    def infer(self, images: Sequence[np.ndarray]) -> Outputs:
        """Returns the outputs for images from `read`."""
        return in_gray(self._infer, images) if self.gray else self._infer(images)

    def _infer(self, images: Sequence[np.ndarray]) -> Outputs:
        x = augment_and_normalize(collate(images), self.image).contiguous().numpy()
        try:
            names = [output.name for output in self.session.get_outputs()]
            outputs = dict(zip(names, self.session.run(None, {"images": x}), strict=True))
            return Outputs(outputs["logits"], outputs.get("features"))
        except Exception as error:  # as above
            raise UserError(f"ONNX Runtime cannot run model.onnx: {str(error)[:200]}. Export it again.") from error


def in_gray(infer: Callable[[Sequence[np.ndarray]], Outputs], images: Sequence[np.ndarray]) -> Outputs:
    """Returns the outputs for images, uint8 (H, W, 1 or 3), but with the features that color ones have in gray.

    Where no training image had color, any tint is a direction that never varied, and makes an image look unlike all.
    """
    outputs, rows = infer(images), [row for row, image in enumerate(images) if image.shape[2] == 3]
    if not rows or outputs.features is None:
        return outputs
    features = outputs.features.copy()
    features[rows] = infer([np.asarray(Image.fromarray(images[row]).convert("L"))[..., None] for row in rows]).features
    return Outputs(outputs.logits, features)


class LearnerEngine:
    """A fastai learner, which resizes and normalizes images itself."""

    def __init__(self, learn: Learner):
        self.learn = learn
        learn.model.eval()

    def read(self, path: str | Path) -> Image.Image:
        """Returns the image at its own size; raises as `read_image`."""
        return read_image(path)

    def infer(self, images: Sequence[Image.Image]) -> Outputs:
        """Returns the outputs for images from `read`."""
        batch = self.learn.dls.test_dl(list(images), bs=len(images)).one_batch()
        with torch.inference_mode():
            return Outputs(_to_numpy(self.learn.model(batch[0])), None)


Engine = TorchEngine | OnnxEngine | LearnerEngine


def _to_numpy(values: torch.Tensor) -> np.ndarray:
    return values.float().cpu().numpy()


def load_pickle(path: Path) -> Learner:
    """Loads an exported learner, which runs any code in the file; raises UserError if it cannot."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that pickles are unsafe: the caller has checked --trust
            return load_learner(path)
    except Exception as error:  # a pickle can raise anything
        raise UserError(f"{path} cannot be loaded as a fastai learner: {str(error)[:200]}") from error


class WithFeatures(nn.Module):
    """A timm model that returns logits and features: the means of its first stages' maps, from the same pass.

    Later stages separate the classes but hardly describe the image: a score made of the classifier's features rated
    noise as the most ordinary image (docs/handover.md).
    """

    def __init__(self, model: nn.Module, stages: int = STAGES):
        super().__init__()
        self.model, self.stages = model, stages

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns logits, (N, classes), and features, (N, d)."""
        last, maps = self.model.forward_intermediates(x)
        return self.model.forward_head(last), torch.cat([stage.mean((2, 3)) for stage in maps[:self.stages]], dim=1)


def supports_features(model: nn.Module, sides: tuple[int, int]) -> bool:
    """Returns whether `WithFeatures` gives the same logits as the model, for images of that height and width."""
    weight = next(model.parameters())
    x = torch.randn(2, 3, *sides, generator=torch.Generator().manual_seed(0)).to(weight.device)
    try:
        with torch.inference_mode():
            logits, features = WithFeatures(model.eval())(x)
            return features.shape[1] > 1 and torch.allclose(logits, model(x), atol=1e-5)
    except (AttributeError, TypeError, RuntimeError, IndexError, AssertionError):  # not a usual timm model
        return False
