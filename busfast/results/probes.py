"""Shortcut probes: does the model look at the lesion, or at traces of the center or the machine?

All of them use the validation part, so that the test part stays unseen.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from fastai.learner import Learner
from PIL import Image
from scipy.special import softmax

from busfast.data.images import load_pixels, resize_image, why_unreadable
from busfast.data.paths import locate, read_source_folders
from busfast.data.split import PARTS, Split
from busfast.errors import UserError
from busfast.pipelines.augment import augment_and_normalize, collate
from busfast.pipelines.backends import LOADERS
from busfast.pipelines.image import ImagePipeline
from busfast.processes import cores
from busfast.progress import progress
from busfast.results.intervals import differences, jackknife
from busfast.results.lesions import decode_mask
from busfast.results.metrics import fewest_groups
from busfast.results.printing import PIXELS
from busfast.results.scores import rank_scores
from busfast.results.verdicts import describe_change, judge

BORDER = 0.12  # of the side: the frame in which text and marks are burned in
MARGIN = 0.06  # of the side, by which a lesion's cover is larger than the lesion
FOLDS = 5
MAX_IMAGES = 2000  # drawn at random: enough for any interval, and they fit into memory
COMPARED = 16  # images of each part whose pixels are compared
# Mean difference of pixels, of 255. Rounding makes a few tenths, decoding at half size up to 1 at 64 px, and saving an
# ultrasound as JPEG of quality 75 about 1 at 224 px: no more than images of one center differ in anyway.
SAME = 2.0
# What a probe does, and what it means that the score gains, loses, or stays the same.
VERDICTS = {
    "lesion covered": ("Covering the lesion", ("the lesion misleads the model", "the model uses the lesion",
                                               "the model does without the lesion")),
    "lesion alone": ("Covering all but the lesion", (
        "the surroundings mislead the model", "the model uses the surroundings, or the cover disturbs it",
        "the lesion is all that the model needs")),
    "border covered": ("Covering the border", ("the border misleads the model",
                                               "the model uses the border, or the cover disturbs it",
                                               "the model does without the border")),
    "border alone": ("Against chance, the border alone", ("the border tells the class",
                                                          "the model takes the border for the opposite",
                                                          "the border does not tell the class")),
    "center from features": ("Against guessing the most frequent center, a linear model", (
        "the features hold the center, and the model may use it", "the features do not tell the center",
        "the features do not tell the center")),
}


def probe_run(learn: Learner, parts: Split, classes: Sequence[str], seed: int = 0) -> pd.DataFrame:
    """Runs every probe that the validation part allows; `seed`: of the covers of images without a lesion.

    Returns:
        A row per probe: probe, score ("macro AUC" or "accuracy"), estimate, low, high, chance, images, change,
        change_low, change_high (against "as it is", paired; "border alone" and "as it is" against .5, the center
        against guessing the most frequent one), and verdict, a sentence that follows from the change. A probe that is
        not possible has no estimate, and the reason in verdict.
    """
    valid = draw_sample(parts.only("valid").rows, seed).reset_index(drop=True)
    pixels, masks = read_pixels(learn, valid, parts.root)
    return pd.DataFrame([*_covers(learn, valid, pixels, masks, classes, seed),
                         _center(learn, valid, pixels, seed)])


def draw_sample(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Returns the rows, or `MAX_IMAGES` of them at random if there are more."""
    return table if len(table) <= MAX_IMAGES else table.sample(MAX_IMAGES, random_state=seed)


def cover(pixels: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Returns a copy of pixels, uint8 (S, S, C), whose region, bool (S, S), has the mean gray of the rest."""
    covered = pixels.copy()
    if region.any() and not region.all():
        covered[region] = pixels[~region].mean(axis=0).round().astype(np.uint8)
    return covered


def frame(sides: tuple[int, int]) -> np.ndarray:
    """Returns the border of an image: bool, (height, width)."""
    width = max(1, round(BORDER * min(sides)))
    region = np.ones(sides, bool)
    region[width:-width, width:-width] = False
    return region


def box(mask: np.ndarray) -> np.ndarray:
    """Returns the rectangle around a lesion with a margin, so that its outline does not show."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    margin = max(1, round(MARGIN * len(mask)))
    region = np.zeros_like(mask)
    region[max(0, rows[0] - margin):rows[-1] + margin + 1,
           max(0, columns[0] - margin):columns[-1] + margin + 1] = True
    return region


def predict_pixels(learn: Learner, pixels: Sequence[np.ndarray], features: bool = False) -> np.ndarray:
    """Returns the logits, (n, k), or the classifier's inputs, of resized images."""
    model, outputs = learn.model.eval(), []
    with torch.inference_mode():
        for start in range(0, len(pixels), learn.dls.valid.bs):
            batch = collate(pixels[start:start + learn.dls.valid.bs]).to(learn.dls.device)
            x = augment_and_normalize(batch, learn.dls.valid.image)
            y = model.forward_head(model.forward_features(x), pre_logits=True) if features else model(x)
            outputs.append(y.float().cpu().numpy())
    return np.concatenate(outputs)


def compare_parts(learn: Learner, split: Split, loader: str) -> dict:
    """Compares the pixels of the training loader with those of validation, for some images of each part.

    Returns:
        A row like those of `probe_run`; estimate is the largest mean difference of a part, of 255.
    """
    image, differences, count = learn.dls.valid.image, [], 0
    folders = read_source_folders(split.root)
    for _, rows in split.only(*PARTS).rows.groupby("part"):
        paths = [str(locate(split.root, name, folders)) for name in rows["image"][:COMPARED]]
        batch, = LOADERS[loader](image, COMPARED, learn.dls.device, 0, False).batches(iter([paths]))
        expected = collate([load_pixels(path, *image.fit) for path in paths])
        differences.append(float((batch.cpu().float() - expected.float()).abs().mean()))
        count += len(paths)
    return {"probe": "preprocessing", "score": PIXELS, "estimate": max(differences), "low": np.nan,
            "high": np.nan, "chance": 0.0, "images": count, "change": np.nan, "change_low": np.nan,
            "change_high": np.nan, "verdict": (
                f"On average, the loader's pixels are within {SAME:g} of 255 of Pillow's, which validation has."
                if max(differences) < SAME else "Where training reads no cache, its pixels are not Pillow's, which "
                "validation has: the model may depend on the difference.")}


def _covers(learn: Learner, valid: pd.DataFrame, pixels: list, masks: list, classes: Sequence[str], seed: int):
    boxes = [box(mask) for mask in masks if mask is not None and mask.any()]
    border, rng = frame(learn.dls.valid.image.sides), np.random.default_rng(seed)
    # An image without a lesion gets the cover of another's, so that the presence of a cover carries no information.
    regions = [box(mask) if mask is not None and mask.any() else boxes[rng.integers(len(boxes))] if boxes else None
               for mask in masks]
    variants = {"as it is": pixels, "lesion covered": None, "lesion alone": None,
                "border covered": [cover(image, border) for image in pixels],
                "border alone": [cover(image, ~border) for image in pixels]}
    if boxes:
        variants["lesion covered"] = [cover(image, region) for image, region in zip(pixels, regions, strict=True)]
        variants["lesion alone"] = [cover(image, ~region) for image, region in zip(pixels, regions, strict=True)]
    labels = valid["label"].map({name: number for number, name in enumerate(classes)}).to_numpy(int)
    groups, first = valid["group"].to_numpy(), None
    fewest = fewest_groups(labels, labels, groups, classes)
    for name, variant in progress(list(variants.items()), "probing"):
        row = {"probe": name, "score": "macro AUC", "chance": 0.5, "images": len(valid)}
        if variant is None:
            yield row | {"images": 0, "verdict": "Not possible: there are no lesion masks."}
            continue
        measure = partial(_macro_auc, labels, softmax(predict_pixels(learn, variant), axis=1), len(classes))
        scored = jackknife(measure, groups, fewest)
        found, first = scored[0].loc["macro_auc"], first or scored
        change = found - row["chance"] if name in ("as it is", "border alone") else \
            differences(first, scored, True).loc["macro_auc", ["difference", "low", "high"]]
        yield row | found.to_dict() | _verdict(name, *change)


def _macro_auc(labels: np.ndarray, probabilities: np.ndarray, k: int, weights: np.ndarray) -> dict[str, np.ndarray]:
    return {"macro_auc": np.mean([rank_scores(labels == index, probabilities[:, index], weights)[0]
                                  for index in range(k)], axis=0)}


def _verdict(probe: str, change: float, low: float, high: float) -> dict[str, Any]:
    """Returns the change of a probe's score, and the verdict on it."""
    if probe in VERDICTS:
        what, words = VERDICTS[probe]
        verdict = describe_change(what, change, low, high, words)
    else:
        verdict = {"few": "Too few patients: no verdict.", "undefined": "Not defined: validation lacks a class."}.get(
            judge(change, low, high), "Better than chance." if low > 0 else
            "Not shown to be better than chance: the probes cannot tell what the model uses.")
    return {"change": change, "change_low": low, "change_high": high, "verdict": verdict}


def _center(learn: Learner, valid: pd.DataFrame, pixels: list, seed: int) -> dict:
    """How well a linear model finds the center from the features, cross-validated over patients."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    counts = valid.groupby("center")["group"].nunique()
    known = valid["center"].isin(counts.index[counts >= FOLDS]).to_numpy() & (valid["center"] != "").to_numpy()
    row = {"probe": "center from features", "score": "accuracy", "images": int(known.sum())}
    center, group = valid["center"][known].to_numpy(), valid["group"][known].to_numpy()
    if len(set(center)) < 2:
        return row | {"images": 0, "verdict": f"Not possible: fewer than two centers have {FOLDS} patients."}
    features = predict_pixels(learn, [pixels[row] for row in np.flatnonzero(known)], features=True)
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    shares = pd.Series(center).value_counts(normalize=True)
    guessed, found = (jackknife(partial(_share, right), group, {}) for right in (
        center == shares.index[0], cross_val_predict(model, features, center, groups=group, cv=folds) == center))
    change = differences(guessed, found, True).loc["accuracy", ["difference", "low", "high"]]
    return row | found[0].loc["accuracy"].to_dict() | {"chance": shares.iloc[0]} | _verdict(
        "center from features", *change)


def _share(right: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    return {"accuracy": weights @ right / weights.sum(1)}


def read_pixels(learn: Learner, table: pd.DataFrame, root: str | Path) -> tuple[list[np.ndarray], list]:
    """Returns the resized pixels of the images of a table, and their masks (None if there is none)."""
    places, image = read_source_folders(root), learn.dls.valid.image
    with ThreadPoolExecutor(cores()) as pool:
        pixels = list(pool.map(lambda name: load_pixels(locate(root, name, places), *image.fit), table["image"]))
        masks = list(pool.map(lambda name: read_mask(root, name, places, image), table["mask"]))
    return pixels, masks


def read_mask(root: str | Path, name: str, places: dict[str, Path], image: ImagePipeline) -> np.ndarray | None:
    """Returns a lesion's mask at the model's size: bool, (S, S); None if the table names none, or it is missing."""
    try:
        mask = decode_mask(root, name, places)
    except Exception as error:
        raise UserError(f"The mask {locate(root, name, places)} cannot be read: {why_unreadable(error)}. Restore it, "
                        "or remove it: its image then counts as one without a mask.") from error
    if mask is None:
        return None
    resized = resize_image(Image.fromarray(mask.astype(np.uint8) * 255), image.sides, image.resize)
    return np.asarray(resized) > 127
