"""The phantom: a synthetic data set that resembles breast ultrasound, so that busfast can be tried without data.

It has the folder layout of real data (`table.csv`, `images/`, `masks/`) but no patients and no clinical meaning. This
file plans centers, patients and labels, and writes the files; `phantom_image` draws the images.
"""

from __future__ import annotations

import csv
import json
import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from busfast.data.phantom_image import Center, make_image
from busfast.data.phantom_tissue import make_tissue
from busfast.data.table import CLASSES
from busfast.errors import UserError

VERSION = 1  # increment when the same seed gives other files
COLUMNS = ("image", "label", "center", "patient", "device", "mask")
IMAGES_PER_PATIENT = (0.35, 0.30, 0.20, 0.15)  # shares of patients with one, two, three and four images
NORMAL_VIEW = 0.12  # share of a lesion patient's images that show no lesion

# The centers differ in grain, gain, resolution and marks. The smallest also shows lesions with less contrast: a domain
# shift for a model trained on the other two.
CENTERS = (
    Center(name="alpha", device="Phantom A-12", share=0.50, class_shares=(0.24, 0.51, 0.25), size=(220, 300),
           margins=(13, 12, 2, 2), extension=".png", grain=(0.7, 1.2), looks=2, range_db=52, gain_db=0,
           attenuation_db=5, contrast=1.0, typicality=0.62, calipers=0.25, trapezoid=0.0),
    Center(name="beta", device="Phantom B-7", share=0.31, class_shares=(0.27, 0.47, 0.26), size=(256, 256),
           margins=(2, 2, 14, 12), extension=".jpg", grain=(0.9, 1.6), looks=3, range_db=60, gain_db=3,
           attenuation_db=8, contrast=0.95, typicality=0.60, calipers=0.45, trapezoid=0.06),
    Center(name="gamma", device="Phantom C-3", share=0.19, class_shares=(0.25, 0.52, 0.23), size=(190, 260),
           margins=(2, 14, 13, 2), extension=".png", grain=(1.1, 2.1), looks=2, range_db=66, gain_db=-5,
           attenuation_db=12, contrast=0.85, typicality=0.56, calipers=0.10, trapezoid=0.12),
)

README = """# busfast phantom

These are synthetic phantom images, made by busfast with a seeded random generator. They imitate the look of breast
ultrasound so that the software can be tried and tested without data. They show no patient, come from no clinic and
no machine, and have no clinical meaning: a model trained on them knows nothing about real images, and no score
reached on them says anything about real ones.
"""


@dataclass(frozen=True)
class _Patient:
    """A planned patient: center, id and label of each image."""

    center: Center
    name: str
    labels: tuple[str, ...]


def write_phantom(folder: str | os.PathLike, images: int = 640, seed: int = 0,
                  progress: Callable[[int, int], None] | None = None) -> Path:
    """Writes the phantom data set, unless `folder` already holds it; returns the path of its table.

    The same `images` and `seed` give byte-identical files. They are written to a temporary folder that is renamed at
    the end. `progress` is called as progress(done, total) after each image. UserError if `folder` holds other files.
    """
    if images < 1 or seed < 0:
        raise UserError(f"The phantom needs images >= 1 and seed >= 0 (got images={images}, seed={seed}).")
    table = Path(folder) / "table.csv"
    target = Path(folder).resolve()  # follows a link to a folder instead of replacing it
    recipe = {"phantom": True, "version": VERSION, "images": images, "seed": seed}
    if _is_done(target, recipe):
        return table
    work = target.parent / f".phantom-{secrets.token_hex(4)}"
    try:
        work.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"The phantom cannot be written to {target}: {error.strerror}. "
                        "Choose another folder.") from error
    try:
        _write_files(work, images, seed, progress)
        (work / "phantom.json").write_text(json.dumps(recipe) + "\n", encoding="utf-8")
        if not _is_done(target, recipe):  # another run may have finished meanwhile
            if target.exists():
                target.rmdir()  # empty; not every system can rename onto an empty folder
            os.rename(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)  # after the rename there is nothing to remove
    return table


def _is_done(target: Path, recipe: dict) -> bool:
    """Returns whether `target` holds the phantom of `recipe`; raises UserError if it holds other files."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    try:
        existing = json.loads((target / "phantom.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        existing = None
    if existing == recipe and (target / "table.csv").is_file():
        return True
    kind = "another phantom" if isinstance(existing, dict) and existing.get("phantom") else "other files"
    raise UserError(f"{target} already holds {kind}, and busfast does not overwrite it. "
                    f"Choose another folder for the phantom, or delete this one.")


def _write_files(work: Path, images: int, seed: int, progress: Callable[[int, int], None] | None) -> None:
    """Writes images, masks, table and README into the folder `work`."""
    (work / "images").mkdir()
    (work / "masks").mkdir()
    rows = []
    for number, patient in enumerate(_plan(images, seed)):
        tissue = make_tissue(_generator(seed, 1, number))
        for index, label in enumerate(patient.labels, start=1):
            image, mask = make_image(_generator(seed, 2, len(rows)), label, patient.center, tissue)
            image_path = f"images/{patient.name}_{index}{patient.center.extension}"
            mask_path = f"masks/{patient.name}_{index}.png" if label != "normal" else ""
            Image.fromarray(image).save(work / image_path, **_save_options(patient.center.extension))
            if mask_path:
                Image.fromarray(mask).save(work / mask_path, **_save_options(".png"))
            rows.append((image_path, label, patient.center.name, patient.name, patient.center.device, mask_path))
            if progress:
                progress(len(rows), images)
    with open(work / "table.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])
    (work / "README.md").write_text(README, encoding="utf-8")


def _generator(seed: int, purpose: int, number: int) -> np.random.Generator:
    """Returns a separate generator for the plan (purpose 0), each patient (1) and each image (2)."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(purpose, number)))


def _save_options(extension: str) -> dict:
    """Returns JPEG quality as devices export it; for PNG fast compression, since speckle hardly compresses."""
    return {"quality": 88} if extension == ".jpg" else {"compress_level": 3}


def _plan(images: int, seed: int) -> list[_Patient]:
    """Plans patients, center by center, with the class shares of the centers."""
    rng = _generator(seed, 0, 0)
    ends = np.round(np.cumsum([center.share for center in CENTERS]) * images).astype(int)
    patients = []
    for center, size in zip(CENTERS, np.diff(ends, prepend=0), strict=True):
        counts = dict.fromkeys(CLASSES, 0)
        planned = []
        while (done := sum(counts.values())) < size:
            views = min(1 + rng.choice(len(IMAGES_PER_PATIENT), p=IMAGES_PER_PATIENT), size - done)
            missing = [share * (done + views) - counts[label]
                       for label, share in zip(CLASSES, center.class_shares, strict=True)]
            kind = CLASSES[int(np.argmax(missing))]
            labels = tuple("normal" if view and rng.random() < NORMAL_VIEW else kind for view in range(views))
            for label in labels:
                counts[label] += 1
            planned.append(labels)
        rng.shuffle(planned)  # otherwise patients would be sorted by class
        patients += [_Patient(center, f"{center.name}_{number:04d}", labels)
                     for number, labels in enumerate(planned, start=1)]
    return patients
