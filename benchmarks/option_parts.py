"""Parts of options.py and travel.py that busfast does not have."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from fastai.callback.core import Callback
from fastai.callback.hook import hook_output
from fastai.learner import Learner
from PIL import Image
from torch import nn

from busfast.data.images import load_pixels, read_image
from busfast.data.paths import read_source_folders
from busfast.data.split import Split
from busfast.files import make_folder
from busfast.pipelines.augment import augment
from busfast.pipelines.batch_tfms import Augment
from busfast.pipelines.image_dl import ImageDL
from busfast.progress import progress
from busfast.results.lesions import decode_mask


def balance_classes(dl: ImageDL) -> None:
    """Makes a training DataLoader draw every class equally often, with replacement."""
    labels = dl.dataset.items["label"]
    weights = (1 / labels.map(labels.value_counts())).tolist()
    dl.shuffle_fn = lambda indices: dl.rng.choices(indices, weights, k=len(indices))


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
    def equalize(image: Image.Image) -> Image.Image:
        lightness, *colors = image.convert("YCbCr").split()
        lightness = Image.fromarray(clahe.apply(np.asarray(lightness)))
        return Image.merge("YCbCr", (lightness, *colors)).convert("RGB")

    return _rewrite(split, folder, equalize)


def cut_borders(split: Split, folder: Path, share: float) -> Split:
    """Writes all images without a share of width and height at each of their sides; arguments and result: see
    `equalize_contrast`."""
    def cut(image: Image.Image) -> Image.Image:
        width, height = image.size
        left, top = round(share * width), round(share * height)
        return image.crop((left, top, width - left, height - top))

    return _rewrite(split, folder, cut)


def _rewrite(split: Split, folder: Path, change: Callable[[Image.Image], Image.Image]) -> Split:
    make_folder(folder)
    names = [f"{index}.png" for index in range(len(split))]
    for path, name in zip(progress(split.image_paths(), "writing images"), names, strict=True):
        change(read_image(path)).save(folder / name)
    return replace(split, rows=split.rows.assign(image=names), root=folder, pixels={})


class _Masked(Callback):
    """Knows where the lesions of a training batch are; the validation part and the left-out center have no masks.

    Args:
        learn: its table has the column `mask`.
    """

    run_valid = False

    def __init__(self, learn: Learner):
        dls, folders = learn.dls, read_source_folders(learn.dls.root)
        each = (decode_mask(dls.root, name, folders) for name in progress(dls.train_ds.items["mask"], "reading masks"))
        pixels = [np.zeros((*dls.image.sides, 1), np.uint8) if mask is None else load_pixels(mask, *dls.image.fit)
                  for mask in each]
        self.masks = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) / 255
        step = next(step for step in dls.train.after_batch.fs if isinstance(step, Augment))
        self.take, step.take = step.take, self._take

    def _take(self, x: torch.Tensor) -> torch.Tensor:
        self.matrices = self.take(x)
        return self.matrices

    def lesions(self) -> torch.Tensor:
        """Returns the masks of the batch, 0 to 1, moved as its images are: float32, (N, 1, H, W)."""
        return augment(self.masks[list(self.dl.indices)], self.matrices)


class MaskLoss(_Masked):
    """Adds the loss of a map of the lesion, which a 1 x 1 convolution draws at a sixteenth of the image's size and no
    prediction needs. Images without a mask have no such loss, unless they are of the first class, without a lesion."""

    def __init__(self, learn: Learner, weight: float = 0.5):
        super().__init__(learn)
        info, self.weight = next(info for info in learn.model.feature_info if info["reduction"] == 16), weight
        self.features = hook_output(learn.model.get_submodule(info["module"]), detach=False)
        learn.model.lesion_map = nn.Conv2d(info["num_chs"], 1, 1)  # of the model, so that the optimizer has it

    def after_loss(self):
        logits, lesions = self.learn.model.lesion_map(self.features.stored), self.lesions()
        known = (lesions.amax((1, 2, 3)) > 0) | (self.y == 0)
        losses = F.binary_cross_entropy_with_logits(logits, F.adaptive_avg_pool2d(lesions, logits.shape[2:]),
                                                    reduction="none").mean((1, 2, 3))
        self.learn.loss_grad = self.loss_grad + self.weight * (losses * known).sum() / known.sum().clamp(min=1)


class OtherBackground(_Masked):
    """Puts half of the lesions, with a margin, into a random image of the batch that has none (of the first class)."""

    def before_batch(self):
        lesions, margin = self.lesions(), self.x.shape[-1] // 24
        wide = F.max_pool2d(lesions, 2 * margin + 1, stride=1, padding=margin)
        soft = F.avg_pool2d(wide, margin + 1 - margin % 2, stride=1, padding=margin // 2, count_include_pad=False)
        healthy = self.y.as_subclass(torch.Tensor) == 0  # fastai's types of targets and images do not mix
        moved = (lesions.amax((1, 2, 3)) > 0) & ~healthy & (torch.rand(len(healthy)) < 0.5)
        others = healthy.nonzero().flatten()
        if len(others):
            drawn = self.x[others[torch.randint(len(others), (len(healthy),))]]
            self.learn.xb = (torch.where(moved[:, None, None, None], self.x * soft + drawn * (1 - soft), self.x),)


class _Centered(Callback):
    """Knows the center of each image of a training batch."""

    run_valid = False

    def __init__(self, learn: Learner):
        codes, self.names = pd.factorize(learn.dls.train_ds.items["center"])
        self.codes = torch.from_numpy(codes)

    def centers(self) -> torch.Tensor:
        """Returns the number of each image's center: int64, (N,)."""
        return self.codes[list(self.dl.indices)]


class GroupDRO(_Centered):
    """Trains on the centers' mean losses, each weighted the more the higher it has been.

    Source:
        Sagawa et al. 2020, "Distributionally robust neural networks for group shifts" (arXiv 1911.08731), with their
        step.
    """

    def __init__(self, learn: Learner, step: float = 0.01):
        super().__init__(learn)
        self.step, self.shares = step, torch.full((len(self.names),), 1 / len(self.names))

    def after_loss(self):
        members = self.centers() == torch.arange(len(self.names))[:, None]
        losses = torch.stack([self.loss_func(self.pred[rows], self.y[rows]) if rows.any() else torch.tensor(0.0)
                              for rows in members])
        self.shares = (self.shares.log() + self.step * losses.detach()).softmax(0)
        self.learn.loss_grad = (self.shares * losses).sum()


class Contrast(_Centered):
    """Adds the loss that `contrast` returns of the pooled features."""

    def __init__(self, learn: Learner, weight: float = 0.5):
        super().__init__(learn)
        self.weight, self.features = weight, hook_output(learn.model.global_pool, detach=False)

    def after_loss(self):
        more = contrast(self.features.stored, self.y, self.centers())
        self.learn.loss_grad = self.loss_grad + self.weight * more


def contrast(features: torch.Tensor, labels: torch.Tensor, centers: torch.Tensor,
             temperature: float = 0.1) -> torch.Tensor:
    """Returns how much nearer all features, (N, C), are to each image's than those of its class, (N,), at other
    centers, (N,), or at its own where there are no others; the mean over the images that have such.

    Source:
        Khosla et al. 2020, "Supervised contrastive learning" (arXiv 2004.11362), with their temperature.
    """
    features, own = F.normalize(features), torch.eye(len(features), dtype=torch.bool)
    logs = (features @ features.T / temperature).masked_fill(own, -torch.inf).log_softmax(1)
    same = (labels[:, None] == labels) & ~own
    others = same & (centers[:, None] != centers)
    positive = torch.where(others.any(1, keepdim=True), others, same)
    each = -logs.masked_fill(~positive, 0).sum(1) / positive.sum(1).clamp(min=1)
    return each.sum() / positive.any(1).sum().clamp(min=1)
