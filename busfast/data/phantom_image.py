"""One synthetic image, resembling breast ultrasound: tissue seen through a device, with speckle and burned-in marks."""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from busfast.data.phantom_tissue import Tissue, add_confounders, add_lesion, draw_layers, make_tissue
from busfast.data.table import CLASSES

NOISE_FLOOR = 0.012  # electronic noise as a share of the mean gland amplitude; keeps the logarithm finite
MID_GRAY = 0.52  # gray level (0..1) of gland tissue before the center's gain


@dataclass(frozen=True)
class Center:
    """One imaging site: its device and display settings, and its share of the phantom."""

    name: str  # invented
    device: str  # invented, burned into the images
    share: float  # of all images
    class_shares: tuple[float, float, float]  # of CLASSES within the center
    size: tuple[int, int]  # typical height and width, pixels
    margins: tuple[int, int, int, int]  # black border (top, right, bottom, left) around the field of view, pixels
    extension: str  # of the files; also sets their format
    grain: tuple[float, float]  # axial and lateral standard deviation of the point spread function, pixels
    looks: int  # compounded views; more give smoother speckle
    range_db: float  # displayed dynamic range; a larger one gives a flatter image
    gain_db: float  # brightness offset
    attenuation_db: float  # loss from top to bottom after time-gain compensation
    contrast: float  # factor on every difference between lesion and tissue
    typicality: float  # mean of how clearly lesions show the features of their class, 0 to 1
    calipers: float  # share of lesion images with burned-in calipers
    trapezoid: float  # narrowing of the field of view at the top, share of the width; 0: a rectangle


def make_image(rng: np.random.Generator, label: str, center: Center,
               tissue: Tissue | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Draws an image and its lesion mask, uint8 (H, W); the mask is 0 or 255, all zero for "normal". `tissue`: the
    patient's breast; default: sampled from `rng`.
    """
    if label not in CLASSES:
        raise ValueError(f"label must be one of {CLASSES}, not {label!r}")
    tissue = tissue or make_tissue(rng)
    top, right, bottom, left = center.margins
    height, width = (int(n * rng.uniform(0.94, 1.06)) for n in center.size)
    h, w = height - top - bottom, width - left - right
    echo = draw_layers(rng, h, w, tissue)
    add_confounders(rng, echo, tissue, label)
    view = _field_of_view(h, w, center)
    outline = np.zeros((h, w), bool)
    if label != "normal":
        outline = add_lesion(rng, echo, label, tissue, center.typicality, center.contrast) & view
    echo -= center.attenuation_db * rng.uniform(0.7, 1.3) * np.linspace(-0.3, 0.7, h, dtype=np.float32)[:, None]
    level = _speckle(rng, echo, center) + center.gain_db + tissue.gain_db + rng.normal(0, 1.5)
    gray = np.clip(MID_GRAY + level / center.range_db, 0, 1) * 255 * view

    image = np.zeros((height, width), np.uint8)
    image[top:top + h, left:left + w] = gray.astype(np.uint8)
    mask = np.zeros((height, width), np.uint8)
    mask[top:top + h, left:left + w] = outline * np.uint8(255)
    return _draw_marks(rng, image, mask, center), mask


def _speckle(rng: np.random.Generator, echo: np.ndarray, center: Center) -> np.ndarray:
    """Simulates random scatterers of the given echo level; returns the log-compressed envelope in decibel."""
    axial, lateral = (s * rng.uniform(0.9, 1.1) for s in center.grain)
    scatter = rng.standard_normal((2 * center.looks, *echo.shape), dtype=np.float32)
    scatter *= np.exp(echo * (log(10) / 20))
    beam = ndimage.gaussian_filter(scatter, (0, axial, lateral), truncate=3)
    power = (beam ** 2).sum(0) * (2 * np.pi * axial * lateral / center.looks)  # mean 1 where echo is 0 decibel
    return 10 / log(10) * np.log(power + NOISE_FLOOR ** 2)


def _field_of_view(h: int, w: int, center: Center) -> np.ndarray:
    """Returns True inside the field of view: a rectangle, or a trapezoid that widens with depth."""
    cut = center.trapezoid * w * (1 - np.arange(h)[:, None] / h)
    return (np.arange(w) >= cut) & (np.arange(w) < w - cut)


def _draw_marks(rng: np.random.Generator, image: np.ndarray, mask: np.ndarray, center: Center) -> np.ndarray:
    """Burns in the marks of the center's device: its name, a depth scale, a focus mark, sometimes calipers."""
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    height, width = image.shape
    top, right, bottom, left = center.margins
    scale_x = width - right + 2 if right > left else left - 3
    step = (height - top - bottom) / rng.integers(4, 7)
    for number, y in enumerate(np.arange(top, height - bottom, step)):
        draw.line((scale_x, y, scale_x + (4 if number % 2 else 7) * (1 if right > left else -1), y), fill=190)
    focus = rng.uniform(top + 0.25 * height, height - bottom - 0.2 * height)
    draw.polygon([(scale_x, focus), (scale_x + 5, focus - 3), (scale_x + 5, focus + 3)], fill=150)
    text_y = 0 if top >= bottom else height - bottom
    draw.text((left + 2, text_y), f"{center.device}  MI {rng.uniform(0.7, 1.3):.1f}", fill=200,
              font=ImageFont.load_default())
    share = center.calipers if mask.any() else 0.25 * center.calipers  # a normal view is sometimes measured, too
    if rng.random() < share:
        _draw_calipers(rng, draw, mask, (0.3 * width, 0.3 * height, 0.6 * width, 0.45 * height))
    return np.array(canvas)


def _draw_calipers(rng: np.random.Generator, draw: ImageDraw.ImageDraw, mask: np.ndarray, default: tuple) -> None:
    """Draws two crossing distance measurements around the lesion, or in `default` if there is none."""
    x0, y0, x1, y1 = Image.fromarray(mask).getbbox() or default
    x0, y0, x1, y1 = np.array((x0, y0, x1, y1)) + rng.normal(0, 2, 4)
    cx, cy = (x0 + x1) / 2, (y0 + y1) / 2
    for start, end in (((x0, cy), (x1, cy)), ((cx, y0), (cx, y1)))[:rng.integers(1, 3)]:
        for x, y in (start, end):
            draw.line((x - 3, y, x + 3, y), fill=235)
            draw.line((x, y - 3, x, y + 3), fill=235)
        length = np.hypot(end[0] - start[0], end[1] - start[1])
        for t in np.arange(5, length - 4, 5) / length:
            draw.point((start[0] + t * (end[0] - start[0]), start[1] + t * (end[1] - start[1])), fill=220)
