"""What turns images into logits: torch, ONNX Runtime, or a fastai learner. Each reads an image and infers a batch."""

import warnings
from collections.abc import Sequence
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
from busfast.inference.fold_batchnorm import fold_batchnorm
from busfast.pipelines.augment import augment_and_normalize, collate
from busfast.pipelines.image import ImagePipeline

# Names of packages, not busfast[onnx]: an index may hold anything under a name that is not ours there.
INSTALL_ONNX = "pip install onnx onnxscript onnxruntime"
STAGES = 3  # whose maps tell what an image is like


class Found(NamedTuple):
    """What an engine says of N images.

    Attributes:
        logits: float32, (N, classes).
        features: float32, (N, d), see `WithFeatures`; None if the engine does not give them.
    """

    logits: np.ndarray
    features: np.ndarray | None


class TorchEngine:
    """A model in torch.

    Args:
        model: gives logits, (N, classes).
        image: its image pipeline.
        device: where it runs.
        features: give them, too; see `WithFeatures`.
    """

    def __init__(self, model: nn.Module, image: ImagePipeline, device: torch.device, features: bool = False):
        self.image, self.device, self.features = image, device, features
        self.model = model.eval().to(device, memory_format=torch.channels_last)

    @cached_property
    def fast(self) -> nn.Module:
        """The model with folded batch normalisation."""
        model = fold_batchnorm(self.model, self.image.size)
        return WithFeatures(model) if self.features else model

    def read(self, path: str | Path) -> np.ndarray:
        """Returns fitted pixels, uint8 (size, size, 1 or 3), of an image; raises what `load_pixels` raises."""
        return load_pixels(path, *self.image.fit)

    def infer(self, images: Sequence[np.ndarray]) -> Found:
        """Returns what the model says of images that `read` has read."""
        with torch.inference_mode():
            found = self.fast(augment_and_normalize(collate(images).to(self.device, non_blocking=True), self.image))
        found = found if self.features else (found, None)
        return Found(*(None if one is None else one.float().cpu().numpy() for one in found))


class OnnxEngine:
    """A model in ONNX Runtime, on the CPU.

    Args:
        content: model.onnx, with the outputs logits and, where there are any, features.
        image: its image pipeline.
        threads: of ONNX Runtime; 0: one a core.

    Raises:
        UserError: ONNX Runtime is not installed, or cannot read the file.
    """

    def __init__(self, content: bytes, image: ImagePipeline, threads: int = 0):
        try:
            import onnxruntime
        except ImportError:
            raise UserError(f"--engine=onnx needs ONNX Runtime: {INSTALL_ONNX}") from None
        self.image, settings = image, onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads
        try:
            self.session = onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
        except Exception as error:  # of its own kinds, which share no base
            raise UserError(f"ONNX Runtime cannot read model.onnx: {str(error)[:200]}. Export it anew.") from error

    read = TorchEngine.read

    def infer(self, images: Sequence[np.ndarray]) -> Found:
        """Returns what the model says of images that `read` has read."""
        x = augment_and_normalize(collate(images), self.image).contiguous().numpy()
        try:
            found = dict(zip([one.name for one in self.session.get_outputs()], self.session.run(None, {"images": x}),
                             strict=True))
            return Found(found["logits"], found.get("features"))
        except Exception as error:  # as above
            raise UserError(f"ONNX Runtime cannot run model.onnx: {str(error)[:200]}. Export it anew.") from error


class LearnerEngine:
    """A fastai learner, which fits and normalises images by itself.

    Args:
        learn: gives logits.
    """

    def __init__(self, learn: Learner):
        self.learn = learn
        learn.model.eval()

    def read(self, path: str | Path) -> Image.Image:
        """Returns the whole image; raises what `read_image` raises."""
        return read_image(path)

    def infer(self, images: Sequence[Image.Image]) -> Found:
        """Returns what the learner says of images that `read` has read."""
        batch = self.learn.dls.test_dl(list(images), bs=len(images)).one_batch()
        with torch.inference_mode():
            return Found(self.learn.model(batch[0]).float().cpu().numpy(), None)


def load_pickle(path: Path) -> Learner:
    """Loads an exported learner, which runs whatever code is in the file.

    Raises:
        UserError: it cannot be loaded.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that it is a pickle: whoever calls this knows
            return load_learner(path)
    except Exception as error:  # a pickle can raise anything
        raise UserError(f"{path} cannot be loaded as a fastai learner: {str(error)[:200]}") from error


class WithFeatures(nn.Module):
    """A timm model that gives logits and, in the same pass, what its first stages see: means of their maps.

    The later stages know what tells the classes apart, and little of what an image is like at all: a score made of the
    classifier's features took noise for the most ordinary image of all (docs/handover.md).
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns logits, (N, classes), and features, (N, d)."""
        last, maps = self.model.forward_intermediates(x)
        return self.model.forward_head(last), torch.cat([one.mean((2, 3)) for one in maps[:STAGES]], dim=1)


def gives_features(model: nn.Module, size: int) -> bool:
    """Returns whether `WithFeatures` gives the very logits of a model, for images of size x size pixels."""
    weight = next(model.parameters())
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0)).to(weight.device)
    try:
        with torch.inference_mode():
            logits, features = WithFeatures(model.eval())(x)
            return features.shape[1] > 1 and torch.allclose(logits, model(x), atol=1e-5)
    except (AttributeError, TypeError, RuntimeError, IndexError, AssertionError):  # a model that timm builds otherwise
        return False


Engine = TorchEngine | OnnxEngine | LearnerEngine
