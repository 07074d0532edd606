"""train_batch.png and val_batch.png: the first images that the model was given, as it was given them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from fastai.callback.core import Callback

from busfast.training import curves

IMAGES = 16


class BatchPictures(Callback):
    """Draws images of the first training batch, and of the first validation, which is in the order of the table, from
    its beginning to its end. They are taken on their way through the model: no batch is made for the pictures, and no
    random number drawn. Pictures that are there, as those of a resumed run, stay.

    Args:
        folder: of the pictures.
        classes: in the model's order.
        caption: in small print under each title.
    """

    def __init__(self, folder: Path, classes: Sequence[str], caption: str):
        self.folder, self.classes, self.caption = folder, classes, caption

    def before_fit(self):
        self.files = {True: self.folder / "train_batch.png", False: self.folder / "val_batch.png"}
        self.missing = {training for training, file in self.files.items() if not file.exists()}

    def before_train(self):
        self.kept = []

    def before_validate(self):
        self.seen, self.kept = 0, []
        self.wanted = np.linspace(0, len(self.dls.valid.dataset) - 1, IMAGES).round()

    def after_pred(self):  # after all callbacks that change the images, such as MixUp
        if self.training not in self.missing or (self.training and self.kept):
            return
        x, y = self.xb[0].detach(), self.yb[0].detach()
        if self.training:
            places = range(min(IMAGES, len(x)))
        else:
            places = np.flatnonzero(np.isin(np.arange(self.seen, self.seen + len(x)), self.wanted)).tolist()
            self.seen += len(x)
        self.kept += [(x[place].clone(), y[place].clone()) for place in places]  # nothing waits for a GPU

    def after_train(self):
        self._draw("First training batch")

    def after_validate(self):
        self._draw("Validation images")

    def _draw(self, title: str) -> None:
        if self.training not in self.missing or not self.kept:
            return
        self.missing.discard(self.training)
        image = self.dls.valid.image
        x, y = (torch.stack(each).cpu().as_subclass(torch.Tensor) for each in zip(*self.kept, strict=True))
        mean, std = (torch.tensor(values)[:, None, None] for values in (image.mean, image.std))
        pixels = ((x.float() * std + mean).clamp(0, 1) * 255).permute(0, 2, 3, 1).numpy().astype(np.uint8)
        curves.draw_batch(self.files[self.training], pixels, name_labels(y, self.classes),
                          f"{title}, as the model gets them", self.caption)


def name_labels(targets: torch.Tensor, classes: Sequence[str]) -> list[str]:
    """Returns the labels of each image, of targets (N,) or, of several labels, (N, classes)."""
    if targets.ndim == 1:
        return [classes[target] for target in targets.tolist()]
    return [", ".join(name for name, value in zip(classes, row, strict=True) if value) for row in targets.tolist()]
