"""Parts of options.py that busfast does not have."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from busfast.data.images import read_image
from busfast.data.split import Split
from busfast.files import make_folder
from busfast.pipelines.image_dl import ImageDL
from busfast.progress import progress


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
