"""Shortcut probes: does the model look at the lesion, or at what gives the center or the machine away?

All of them use the validation part, so that looking at them costs nothing of the test part.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from fastai.learner import Learner
from PIL import Image

from busfast.data.images import load_pixels, read_image, resize_image, why_unreadable
from busfast.data.paths import locate, read_source_folders
from busfast.data.split import PARTS, Split
from busfast.errors import UserError
from busfast.pipelines.augment import augment_and_normalize, collate
from busfast.pipelines.backends import LOADERS
from busfast.pipelines.image import ImagePipeline
from busfast.progress import progress
from busfast.results.bootstrap import intervals
from busfast.results.scores import score

BORDER = 0.12  # of the side: the frame in which text and marks are burned in
AROUND = 0.06  # of the side, that a lesion's cover reaches beyond it
FOLDS = 5
MOST = 2000  # images that are looked at, drawn at random: enough for any interval, and they fit into memory
COMPARED = 16  # images of each part whose pixels are compared
READ = {
    "as it is": "For comparison.",
    "lesion covered": "Far below the first: the model reads the lesion. Nearly as good: it reads something else.",
    "lesion alone": "Close to the first: the lesion and its edge are what the model needs.",
    "border covered": "Far below the first: it reads text, marks or the frame of the image.",
    "border alone": "Near 0.5: the border says nothing. Above it: it gives the class away.",
    "center from features": "Share of images whose center a linear model finds in the model's features. Far above "
                            "chance: it knows where an image comes from, and may use it.",
    "preprocessing": "How far the training loader's pixels are from those of validation, at most, in train, valid and "
                     "test: a few tenths are rounding; more would let a model tell the parts apart.",
}


def probe_run(learn: Learner, parts: Split, classes: Sequence[str], seed: int = 0) -> pd.DataFrame:
    """Runs every probe that the validation part allows.

    Args:
        learn: as `load_run_model` gives it.
        parts: as `read_parts` returns it.
        classes: in the model's order.
        seed: of the covers that images without a lesion get.

    Returns:
        A row a probe: probe, score ("macro AUC" or "accuracy"), estimate, low, high, chance, images, how to read it.
        A probe that cannot be is a row without an estimate, with the reason.
    """
    valid = draw_some(parts.only("valid").rows, seed).reset_index(drop=True)
    pixels, masks = read_pixels(learn, valid, parts.root)
    return pd.DataFrame([*_covers(learn, valid, pixels, masks, classes, seed),
                         _center(learn, valid, pixels, seed)])


def draw_some(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Returns the rows, or `MOST` of them at random where there are more."""
    return table if len(table) <= MOST else table.sample(MOST, random_state=seed)


def cover(pixels: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Returns a copy with a region in the mean gray of the rest.

    Args:
        pixels: uint8, (S, S, C).
        region: bool, (S, S).
    """
    covered = pixels.copy()
    if region.any() and not region.all():
        covered[region] = pixels[~region].mean(axis=0).round().astype(np.uint8)
    return covered


def frame(size: int) -> np.ndarray:
    """Returns the border of an image: bool, (size, size)."""
    width = max(1, round(BORDER * size))
    region = np.ones((size, size), bool)
    region[width:-width, width:-width] = False
    return region


def box(mask: np.ndarray) -> np.ndarray:
    """Returns the rectangle around a lesion, a little larger, so that its outline does not show."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    more = max(1, round(AROUND * len(mask)))
    region = np.zeros_like(mask)
    region[max(0, rows[0] - more):rows[-1] + more + 1, max(0, columns[0] - more):columns[-1] + more + 1] = True
    return region


def logits_of(learn: Learner, pixels: Sequence[np.ndarray], features: bool = False) -> np.ndarray:
    """Returns logits (n, k), or what goes into the classifier, of fitted pixels."""
    model, found = learn.model.eval(), []
    with torch.inference_mode():
        for start in range(0, len(pixels), learn.dls.valid.bs):
            batch = collate(pixels[start:start + learn.dls.valid.bs]).to(learn.dls.device)
            x = augment_and_normalize(batch, learn.dls.valid.image)
            y = model.forward_head(model.forward_features(x), pre_logits=True) if features else model(x)
            found.append(y.float().cpu().numpy())
    return np.concatenate(found)


def compare_parts(learn: Learner, split: Split, loader: str) -> dict:
    """Holds the pixels that the training loader makes against those of validation, for some images of each part.

    Args:
        learn: as `load_run_model` gives it.
        split: with all parts.
        loader: the loader that the run was trained with.

    Returns:
        A row as those of `probe_run`; estimate is the largest mean difference of a part, of 255.
    """
    image, apart, count = learn.dls.valid.image, [], 0
    folders = read_source_folders(split.root)
    for _, rows in split.only(*PARTS).rows.groupby("part"):
        paths = [str(locate(split.root, name, folders)) for name in rows["image"][:COMPARED]]
        made, = LOADERS[loader](image, COMPARED, learn.dls.device, 0, False).batches(iter([paths]))
        wanted = collate([load_pixels(path, *image.fit) for path in paths])
        apart.append(float((made.cpu().float() - wanted.float()).abs().mean()))
        count += len(paths)
    return {"probe": "preprocessing", "score": "mean difference, of 255", "estimate": max(apart), "low": np.nan,
            "high": np.nan, "chance": 0.0, "images": count, "reading": READ["preprocessing"]}


def _covers(learn: Learner, valid: pd.DataFrame, pixels: list, masks: list, classes: Sequence[str], seed: int):
    size = learn.dls.valid.image.size
    boxes = [box(mask) for mask in masks if mask is not None and mask.any()]
    border, rng = frame(size), np.random.default_rng(seed)
    # An image without a lesion gets the cover of another one's: the cover itself must say nothing.
    regions = [box(mask) if mask is not None and mask.any() else boxes[rng.integers(len(boxes))] if boxes else None
               for mask in masks]
    variants = {"as it is": pixels, "lesion covered": None, "lesion alone": None,
                "border covered": [cover(one, border) for one in pixels],
                "border alone": [cover(one, ~border) for one in pixels]}
    if boxes:
        variants["lesion covered"] = [cover(*pair) for pair in zip(pixels, regions, strict=True)]
        variants["lesion alone"] = [cover(one, ~region) for one, region in zip(pixels, regions, strict=True)]
    labels = valid["label"].map({name: number for number, name in enumerate(classes)}).to_numpy(int)
    for name, variant in progress(list(variants.items()), "probing"):
        row = {"probe": name, "score": "macro AUC", "chance": 0.5, "images": len(valid), "reading": READ[name]}
        if variant is None:
            yield row | {"images": 0, "reading": "Not possible: the table names no masks of lesions."}
            continue
        logits = logits_of(learn, variant)
        probabilities = np.exp(logits - logits.max(1, keepdims=True))
        measure = partial(score, labels, probabilities / probabilities.sum(1, keepdims=True), classes=classes)
        found = intervals(measure, valid["group"].to_numpy(), labels).loc["macro_auc"]
        yield row | found.to_dict()


def _center(learn: Learner, valid: pd.DataFrame, pixels: list, seed: int) -> dict:
    """How well a linear model tells the center from the features, patients kept apart."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    counts = valid.groupby("center")["group"].nunique()
    known = valid["center"].isin(counts.index[counts >= FOLDS]).to_numpy() & (valid["center"] != "").to_numpy()
    row = {"probe": "center from features", "score": "accuracy", "images": int(known.sum()),
           "reading": READ["center from features"]}
    center, group = valid["center"][known].to_numpy(), valid["group"][known].to_numpy()
    if len(set(center)) < 2:
        return row | {"images": 0, "reading": f"Not possible: fewer than two centers have {FOLDS} patients."}
    features = logits_of(learn, [one for one, keep in zip(pixels, known, strict=True) if keep], features=True)
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    right = cross_val_predict(model, features, center, groups=group, cv=folds) == center

    def measure(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {"accuracy": weights @ right / weights.sum(1)}

    return row | intervals(measure, group, center).loc["accuracy"].to_dict() | {
        "chance": pd.Series(center).value_counts(normalize=True).max()}


def read_pixels(learn: Learner, table: pd.DataFrame, root: str | Path) -> tuple[list[np.ndarray], list]:
    """Returns the fitted pixels of the images of a table, and their masks (None where there is none)."""
    places, image = read_source_folders(root), learn.dls.valid.image
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pixels = list(pool.map(lambda name: load_pixels(locate(root, name, places), *image.fit), table["image"]))
        masks = list(pool.map(lambda name: read_mask(root, name, places, image), table["mask"]))
    return pixels, masks


def read_mask(root: str | Path, name: str, places: dict[str, Path], image: ImagePipeline) -> np.ndarray | None:
    """Returns a lesion's mask at the model's size: bool, (S, S); None if the table names none, or it is gone.

    Args:
        root, name, places: as those of `locate`.
        image: the image pipeline that the images go through.
    """
    path = locate(root, name, places) if name else None
    if path is None or not path.is_file():
        return None
    try:
        mask = np.asarray(read_image(path, keep_gray=True).convert("L")) > 0
    except Exception as error:  # a broken file raises nearly anything
        raise UserError(f"The mask {path} cannot be read: {why_unreadable(error)}. Bring the old one back, or remove "
                        "it: then its image counts as one without a mask.") from error
    fitted = resize_image(Image.fromarray(mask.astype(np.uint8) * 255), image.size, image.resize)
    return np.asarray(fitted) > 127
