"""Parts of options.py that busfast does not have."""

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
    make_folder(folder)
    names = [f"{index}.png" for index in range(len(split))]
    for path, name in zip(progress(split.image_paths(), "CLAHE"), names, strict=True):
        lightness, *colors = read_image(path).convert("YCbCr").split()
        lightness = Image.fromarray(clahe.apply(np.asarray(lightness)))
        Image.merge("YCbCr", (lightness, *colors)).convert("RGB").save(folder / name)
    return replace(split, rows=split.rows.assign(image=names), root=folder, pixels={})
