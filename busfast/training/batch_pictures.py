"""train_batch.png and val_batch.png: the first images that the model was given, as it was given them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from fastai.callback.core import Callback
from fastai.torch_core import TensorImage

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

    def before_validate(self):
        self.seen, self.images, self.labels = 0, [], []
        self.wanted = np.linspace(0, len(self.dls.valid.dataset) - 1, IMAGES).round()

    def after_pred(self):  # after all callbacks that change the images, such as MixUp
        if self.training not in self.missing:
            return
        x, y = self.xb[0], self.yb[0]
        if self.training:
            self._draw(self._pixels(x[:IMAGES]), name_labels(y[:IMAGES], self.classes), "First training batch")
        else:
            places = np.flatnonzero(np.isin(np.arange(self.seen, self.seen + len(x)), self.wanted))
            self.images += list(self._pixels(x[places]))
            self.labels += name_labels(y[places], self.classes)
            self.seen += len(x)

    def after_validate(self):
        if False in self.missing and self.images:
            self._draw(self.images, self.labels, "Validation images")

    def _pixels(self, x: torch.Tensor) -> np.ndarray:
        """The model's input, (N, 3, H, W), as pixels, uint8 (N, H, W, 3)."""
        pixels = self.dl.after_batch.decode((TensorImage(x.detach().float()),))[0]  # undoes Normalize
        return pixels.cpu().permute(0, 2, 3, 1).numpy().astype(np.uint8)

    def _draw(self, pixels: Sequence[np.ndarray], labels: Sequence[str], title: str) -> None:
        self.missing.discard(self.training)
        curves.draw_batch(self.files[self.training], pixels, labels, f"{title}, as the model gets them", self.caption)


def name_labels(targets: torch.Tensor, classes: Sequence[str]) -> list[str]:
    """Returns the labels of each image, of targets (N,) or, of several labels, (N, classes)."""
    if targets.ndim == 1:
        return [classes[target] for target in targets.tolist()]
    return [", ".join(name for name, value in zip(classes, row, strict=True) if value) for row in targets.tolist()]
