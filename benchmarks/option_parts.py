"""Parts of options.py that neither busfast nor fastai has."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from fastai.callback.core import Callback
from fastai.torch_core import params
from PIL import Image
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from busfast.data.images import read_image
from busfast.data.split import Split
from busfast.files import make_folder
from busfast.imports import require_package
from busfast.pipelines.image_dl import ImageDL
from busfast.progress import progress


class AveragedWeights(Callback):
    """Validates an exponential moving average of the weights and of batch normalization's statistics.

    Args:
        decay: share of the average that a step keeps.

    Source:
        Polyak and Juditsky 1992; as torch.optim.swa_utils does it.
    """

    def __init__(self, decay: float):
        self.decay = decay

    def before_fit(self):
        self.average = AveragedModel(self.learn.model, multi_avg_fn=get_ema_multi_avg_fn(self.decay), use_buffers=True)

    def after_step(self):
        self.average.update_parameters(self.learn.model)

    def before_validate(self):
        self.trained, self.learn.model = self.learn.model, self.average.module
        self.learn.model.eval()

    def after_validate(self):
        self.learn.model = self.trained


class MirroredValidation(Callback):
    """Validates the mean of the probabilities of an image and of its mirror image."""

    run_train = False

    def after_pred(self):
        mirrored = self.learn.model(self.x.flip(-1))
        self.learn.pred = (self.pred.softmax(dim=1) + mirrored.softmax(dim=1)).div(2).log()


def balance_classes(dl: ImageDL) -> None:
    """Makes a training DataLoader draw every class equally often, with replacement."""
    labels = dl.dataset.items["label"]
    weights = (1 / labels.map(labels.value_counts())).tolist()
    dl.shuffle_fn = lambda indices: dl.rng.choices(indices, weights, k=len(indices))


def split_head(model: nn.Module) -> list[list[nn.Parameter]]:
    """Splits the weights of a timm model into fastai's parameter groups: the body, the classifier."""
    head = params(model.get_classifier())
    ids = {id(weight) for weight in head}
    return [[weight for weight in params(model) if id(weight) not in ids], head]


def require_opencv() -> None:
    """Raises a UserError if OpenCV is not installed."""
    require_package("cv2", "CLAHE needs OpenCV", "pip install opencv-python-headless")


def equalize_contrast(split: Split, folder: Path) -> Split:
    """Writes all images with their contrast equalized locally (CLAHE, clip limit 2, 8 x 8 tiles).

    Args:
        split: of the images.
        folder: to write to.

    Returns:
        The split of the written images.

    Source:
        Zuiderveld 1994, "Contrast limited adaptive histogram equalization".
    """
    import cv2

    clahe = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8))
    make_folder(folder)
    names = [f"{index}.png" for index in range(len(split))]
    for path, name in zip(progress(split.image_paths(), "CLAHE"), names, strict=True):
        lightness, *colors = read_image(path).convert("YCbCr").split()
        lightness = Image.fromarray(clahe.apply(np.asarray(lightness)))
        Image.merge("YCbCr", (lightness, *colors)).convert("RGB").save(folder / name)
    return replace(split, rows=split.rows.assign(image=names), root=folder, pixels={})
