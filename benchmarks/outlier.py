"""What the outlier score of a bundle calls unlike: the test part in other forms, and pictures of other things.

Makes the table "Images unlike the training images" of docs/handover.md.
"""

import io
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from common import run_study
from PIL import Image

from busfast.bench.report import Report
from busfast.data.images import read_image
from busfast.data.sources.listing import list_images
from busfast.data.split_file import read_split
from busfast.inference.predictor import load_predictor

DEFAULTS = {"model": None, "split": None, "data": None, "others": "", "images": 100}
TINTS = {"warm": (1, 0.95, 0.82), "cold": (0.85, 0.93, 1), "orange": (1, 0.8, 0.6)}


def tinted(image: Image.Image, tint: tuple[float, ...]) -> Image.Image:
    """Returns an image whose channels are multiplied by a tint."""
    return Image.fromarray((np.asarray(image.convert("RGB")) * np.array(tint)).clip(0, 255).astype(np.uint8))


def resized(image: Image.Image, factor: float) -> Image.Image:
    """Returns an image at a multiple of its size."""
    return image.resize([max(1, round(side * factor)) for side in image.size])


FORMS: dict[str, tuple[Callable[[Image.Image], Image.Image], dict]] = {
    "test part": (lambda image: image, {}),
    "in color": (lambda image: image.convert("RGB"), {}), "BMP": (lambda image: image, {"format": "BMP"}),
    **{f"JPEG, quality {quality}": (lambda image: image, {"format": "JPEG", "quality": quality})
       for quality in (85, 60)},
    **{f"{factor} of its size": (lambda image, factor=factor: resized(image, factor), {})
       for factor in (2, 0.5, 0.35)},
    **{f"{name} tint": (lambda image, tint=tint: tinted(image, tint), {}) for name, tint in TINTS.items()},
    "rotated by 90 degrees": (lambda image: image.rotate(90, expand=True), {}),
    "upside down": (lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM), {}),
    "inverted": (lambda image: image.point(lambda value: 255 - value), {})}


def encode(image: Image.Image, **options) -> bytes:
    """Returns an image as the bytes of a file, PNG by default."""
    file = io.BytesIO()
    image.save(file, **({"format": "PNG"} | options))
    return file.getvalue()


def scores(predictor, sources: Iterable, bs: int = 32) -> np.ndarray:
    """Returns the outlier scores, (n,), of images: paths or bytes."""
    images = [predictor.engine.read(source) for source in sources]
    return np.concatenate([predictor.outlier.score(predictor.engine.infer(images[start:start + bs]).features)
                           for start in range(0, len(images), bs)])


def run(folder: Path, model: str, split: str, data: str, others: str, images: int) -> Report:
    """Scores the forms of the test part's images, noise, constant images and the images of further folders.

    Args:
        folder: unused.
        model: the bundle.
        split, data: the split.csv of its run, and the data folder.
        others: folders of other images, separated by commas.
        images: the most of each set.
    """
    predictor = load_predictor(model)
    rng, paths = np.random.default_rng(0), read_split(split, data).only("test").image_paths()
    own = [read_image(path, keep_gray=True) for path in paths[:images]]
    sets = {name: [encode(form(image), **options) for image in own] for name, (form, options) in FORMS.items()}
    sets["noise"] = [encode(Image.fromarray(rng.integers(0, 256, (200, 200, 3), np.uint8))) for _ in range(images)]
    sets["constant"] = [encode(Image.new("L", (100, 100), value)) for value in range(0, 256, 13)]
    sets |= {name: list_images(name)[:images] for name in others.split(",") if name}
    rows = [{"name": name, "images": len(found), "unlike": float((found > 1).mean()), "median": float(np.median(found))}
            for name, found in ((name, scores(predictor, sources)) for name, sources in sets.items())]
    notes = ["unlike: share of images whose score is above 1, which predict calls unlike the training images; median: "
             "of the scores."]
    return Report("Images called unlike the training images", pd.DataFrame(rows), ("unlike", "share called unlike"),
                  (), notes)


if __name__ == "__main__":
    run_study("outlier", __doc__, DEFAULTS, run)
