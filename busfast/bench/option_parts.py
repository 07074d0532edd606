"""Parts of options that neither busfast nor fastai has."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
from fastai.callback.core import Callback
from fastai.torch_core import params
from PIL import Image
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from busfast.data.images import read_image
from busfast.data.paths import image_paths
from busfast.errors import UserError
from busfast.files import make_folder
from busfast.pipelines.dataloaders import ImageDL
from busfast.progress import progress


class Averaged(Callback):
    """Validates an exponential moving average of the weights, and of the statistics of batch normalisation.

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


class Mirrored(Callback):
    """Validates the mean of the probabilities of an image and of its mirror image."""

    run_train = False

    def after_pred(self):
        mirrored = self.learn.model(self.x.flip(-1))
        self.learn.pred = (self.pred.softmax(dim=1) + mirrored.softmax(dim=1)).div(2).log()


def balance(dl: ImageDL) -> None:
    """Makes a training DataLoader draw, with replacement, every class equally often."""
    labels = dl.dataset.items["label"]
    weights = (1 / labels.map(labels.value_counts())).tolist()
    dl.shuffle_fn = lambda indices: dl.rng.choices(indices, weights, k=len(indices))


def two_groups(model: nn.Module) -> list[list[nn.Parameter]]:
    """Splits the weights of a timm model for fastai: all but the classifier, the classifier."""
    head = params(model.get_classifier())
    ids = {id(weight) for weight in head}
    return [[weight for weight in params(model) if id(weight) not in ids], head]


def equalize(parts: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Writes copies of all images with their contrast equalised locally (CLAHE, clip limit 2, 8 x 8 tiles).

    Args:
        parts: a split table.
        folder: to write to.

    Returns:
        The table, of the copies.

    Raises:
        UserError: OpenCV is not installed.

    Source:
        Zuiderveld 1994, "Contrast limited adaptive histogram equalization".
    """
    clahe = opencv().createCLAHE(clipLimit=2.0, tileGridSize=(8, 8))
    make_folder(folder)
    copies = parts.assign(image=[f"{index}.png" for index in range(len(parts))])
    for path, name in zip(progress(image_paths(parts), "CLAHE"), copies["image"], strict=True):
        lightness, *colors = read_image(path).convert("YCbCr").split()
        equalised = Image.fromarray(clahe.apply(np.asarray(lightness)))
        Image.merge("YCbCr", (equalised, *colors)).convert("RGB").save(folder / name)
    copies.attrs["root"] = str(folder)
    return copies


def opencv() -> ModuleType:
    """Returns the module cv2.

    Raises:
        UserError: OpenCV is not installed.
    """
    try:
        import cv2
    except ImportError:
        raise UserError("CLAHE needs OpenCV: pip install opencv-python-headless") from None
    return cv2
