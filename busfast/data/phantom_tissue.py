"""The echo levels of one synthetic breast: tissue layers, structures that resemble lesions, a lesion.

All levels are in decibel relative to fibroglandular tissue: a B-mode image shows the logarithm of the echo envelope, in
which layers, shadows and enhancement add up.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np
from PIL import Image
from scipy import ndimage

# Lesion features as (typical benign, ambiguous, typical malignant); each lesion lies between the middle and one end.
FEATURES = {
    "aspect": (0.58, 0.76, 1.08),  # height / width
    "rough": (0.04, 0.10, 0.22),  # undulation of the margin, share of the radius
    "spikes": (0.0, 0.08, 0.48),  # length of the spicules, share of the radius
    "blur": (0.03, 0.07, 0.14),  # softness of the margin, share of the radius
    "posterior": (7.5, -1.0, -15.0),  # decibel behind the lesion: enhancement > 0, shadow < 0
    "level": (-17.0, -13.0, -14.0),  # decibel inside
    "halo": (0.0, 0.5, 4.0),  # decibel of the echogenic rim
}


@dataclass(frozen=True)
class Tissue:
    """The breast of one patient; depths are shares of the image height."""

    skin: float
    fat: float
    gland: float
    muscle: float
    density: float
    fat_db: float
    gain_db: float
    ribs: float


def make_tissue(rng: np.random.Generator) -> Tissue:
    """Samples the breast of one patient."""
    fat = rng.uniform(0.14, 0.34)
    gland = rng.uniform(0.60, 0.78)
    return Tissue(skin=rng.uniform(0.035, 0.06), fat=fat, gland=gland, muscle=gland + rng.uniform(0.12, 0.2),
                  density=rng.uniform(0.3, 1.0), fat_db=rng.uniform(-13, -8), gain_db=rng.normal(0, 2.5),
                  ribs=0.6 if rng.random() < 0.3 else 0.05)


def draw_layers(rng: np.random.Generator, h: int, w: int, tissue: Tissue) -> np.ndarray:
    """Returns the echo level of skin, fat, gland and pectoral muscle, sometimes a rib; decibel, float32, (h, w)."""
    depth = np.arange(h, dtype=np.float32)[:, None] / h

    def below(edge: float, wave: float) -> np.ndarray:  # soft step from 0 to 1 at a wavy depth
        curve = edge + wave * _field(rng, (1, w), (1.0, 0.16 * w))
        return _step((depth - curve) / 0.006)

    def septa(spacing: tuple[float, float], thin: float) -> np.ndarray:  # zero lines of noise are curved threads
        threads = np.exp(-(_field(rng, (h, w), (spacing[0] * h, spacing[1] * w)) / thin) ** 2)
        return threads * np.clip(_field(rng, (h, w), (0.05 * h, 0.08 * w)) + 0.4, 0, 1.2)  # interrupted

    skin, fat, gland, muscle = (below(tissue.skin, 0.002), below(tissue.fat, 0.03), below(tissue.gland, 0.02),
                                below(tissue.muscle, 0.012))
    wall = below(tissue.gland + 0.035, 0.006)
    fat_level = tissue.fat_db + 1.5 * _field(rng, (h, w), (0.03 * h, 0.06 * w)) + 10 * septa((0.035, 0.16), 0.12)
    lumps = _field(rng, (h, w), (0.03 * h, 0.07 * w))
    gland_level = 2.5 * lumps + 6 * septa((0.025, 0.11), 0.25)
    gland_level -= (1 - tissue.density) * 9 * (_field(rng, (h, w), (0.06 * h, 0.12 * w)) > 0.3)  # fat between gland
    muscle_level = -11 + 5 * _field(rng, (h, w), (0.008 * h, 0.12 * w))
    deep_level = -20 + 3 * _field(rng, (h, w), (0.05 * h, 0.2 * w))
    echo = 4 + (fat_level - 4) * skin + (gland_level - fat_level) * fat + (fat_level - 1 - gland_level) * gland
    echo += (muscle_level - fat_level + 1) * wall + (deep_level - muscle_level) * muscle
    for edge, bright in ((skin, 8), (wall, 13), (muscle, 14)):  # skin line, fascia and pleura reflect strongly
        echo += bright * 4 * edge * (1 - edge)
    if rng.random() < tissue.ribs:
        rho, _ = _ellipse(h, w, rng.uniform(0.1, 0.9) * w, (tissue.muscle + 0.06) * h, rng.uniform(0.1, 0.16) * w,
                          0.06 * h, 0)
        cap = np.exp(-((rho - 1) / 0.12) ** 2) * (depth < tissue.muscle + 0.06)
        shadow = np.cumsum(rho < 1, axis=0) > 0
        echo += 14 * cap - 22 * ndimage.gaussian_filter(shadow.astype(np.float32), (1, 2)) * (1 - cap)
    return echo.astype(np.float32)


def add_confounders(rng: np.random.Generator, echo: np.ndarray, tissue: Tissue, label: str) -> None:
    """Adds structures to `echo` that may be mistaken for lesions: fat lobules, ligament shadows, bright dots."""
    h, w = echo.shape
    for _ in range(rng.integers(0, 4 if label == "normal" else 2)):
        rho, _ = _ellipse(h, w, rng.uniform(0.1, 0.9) * w, rng.uniform(tissue.fat, tissue.gland) * h,
                          rng.uniform(0.05, 0.14) * w, rng.uniform(0.03, 0.07) * h, rng.normal(0, 0.25))
        echo -= rng.uniform(4, 10) * _step((1 - rho) / rng.uniform(0.06, 0.2))
    for _ in range(rng.integers(0, 3)):
        start, column = rng.uniform(0.1, tissue.gland) * h, rng.uniform(0.05, 0.95) * w
        below = _step((np.arange(h) - start) / (0.03 * h))
        across = np.exp(-((np.arange(w) - column) / (rng.uniform(0.015, 0.06) * w)) ** 2)
        echo -= rng.uniform(3, 10) * below[:, None] * across
    if rng.random() < 0.15:
        _add_dots(rng, echo, rng.uniform(0.2, 0.8) * w, rng.uniform(tissue.fat, tissue.gland) * h, 0.08 * w)


def _add_dots(rng: np.random.Generator, echo: np.ndarray, cx: float, cy: float, spread: float) -> None:
    """Adds calcification-like bright dots around (cx, cy)."""
    for y, x in rng.normal((cy, cx), spread, size=(rng.integers(2, 8), 2)).astype(int):
        echo[max(y, 0):max(y + 2, 0), max(x, 0):max(x + 2, 0)] += 14


def add_lesion(rng: np.random.Generator, echo: np.ndarray, label: str, tissue: Tissue, typicality: float,
               contrast: float) -> np.ndarray:
    """Draws a lesion into `echo` and returns its outline as a boolean mask; see `Center` for the last two arguments."""
    h, w = echo.shape
    typical = rng.beta(5 * typicality, 5 * (1 - typicality))
    feature = {}
    for name, (benign, middle, malignant) in FEATURES.items():  # each feature may disagree with the others
        end = benign if label == "benign" else malignant
        feature[name] = middle + (end - middle) * min(max(typical + rng.normal(0, 0.3), -0.25), 1.2)
    aspect = min(max(feature["aspect"] * rng.uniform(0.88, 1.12), 0.4), 1.5)
    radius = rng.uniform(0.08, 0.17) * sqrt(h * w)
    a, b = radius / sqrt(aspect), radius * sqrt(aspect)
    cx, cy = rng.uniform(0.28, 0.72) * w, rng.uniform(tissue.fat + 0.02, tissue.gland - 0.08) * h
    cy = min(max(cy, tissue.skin * h + 1.15 * b), h - 1.3 * b)
    rho, angle = _ellipse(h, w, cx, cy, a, b, rng.normal(0, 0.2))

    around = np.linspace(-np.pi, np.pi, 361, dtype=np.float32)
    decay = 1.6 if label == "benign" else 0.9  # lobulated (few waves) or jagged (many)
    body = np.ones_like(around)
    for k in range(2, 11):
        body += max(feature["rough"], 0) * rng.normal() * (k / 2) ** -decay * np.cos(k * around + rng.uniform(0, 6.3))
    body = np.clip(body, 0.55, 1.6)
    spikes = np.zeros_like(around)
    for _ in range(rng.integers(5, 13)):
        off = np.abs((around - rng.uniform(-np.pi, np.pi) + np.pi) % (2 * np.pi) - np.pi)
        spikes = np.maximum(spikes, max(feature["spikes"], 0) * rng.uniform(0.4, 1.3) * np.exp(-off / 0.09))
    edge = np.interp(angle, around, body).astype(np.float32)
    reach = rho / (edge + np.interp(angle, around, spikes).astype(np.float32))
    inside = _step((1 - reach) / max(feature["blur"], 0.02))

    anechoic = label == "benign" and rng.random() < 0.2  # a simple cyst
    level = (feature["level"] + rng.normal(0, 3) - 14 * anechoic) * contrast
    texture = rng.uniform(0.5, 3) * (1 - anechoic) * _field(rng, (h, w), (0.02 * h, 0.03 * w))
    echo += inside * (min(level, -4.0) + texture - echo)
    echo += max(feature["halo"], 0) * contrast * np.exp(-((reach - 1.2) / 0.15) ** 2)
    path = ndimage.gaussian_filter1d(np.cumsum(inside, axis=0) / (2 * b), 0.02 * w, axis=1)
    echo += feature["posterior"] * contrast * np.minimum(path, 1.2)
    if rng.random() < (0.12 if label == "benign" else 0.35):
        _add_dots(rng, echo, cx, cy, 0.35 * min(a, b))
    return rho < edge


def _field(rng: np.random.Generator, shape: tuple[int, int], sigma: tuple[float, float]) -> np.ndarray:
    """Returns smooth noise of unit variance; made on a coarse grid, since wide filters are slow on the full one."""
    steps = [max(1.0, s / 2) for s in sigma]
    coarse = rng.standard_normal([ceil(n / step) + 4 for n, step in zip(shape, steps, strict=True)], dtype=np.float32)
    coarse = ndimage.gaussian_filter(coarse, [s / step for s, step in zip(sigma, steps, strict=True)], mode="wrap")
    coarse /= coarse.std() + 1e-6
    box = (2, 2, 2 + shape[1] / steps[1], 2 + shape[0] / steps[0])
    return np.asarray(Image.fromarray(coarse).resize(shape[::-1], Image.Resampling.BICUBIC, box=box))


def _step(x: np.ndarray) -> np.ndarray:
    """Soft step from 0 (x far below 0) to 1 (x far above 0)."""
    return 1 / (1 + np.exp(-np.clip(x, -30, 30)))


def _ellipse(h: int, w: int, cx: float, cy: float, a: float, b: float, tilt: float) -> tuple[np.ndarray, np.ndarray]:
    """Elliptic distance (1 on the ellipse) and angle of every pixel around (cx, cy)."""
    dy, dx = np.arange(h, dtype=np.float32)[:, None] - cy, np.arange(w, dtype=np.float32) - cx
    u = (dx * np.cos(tilt) + dy * np.sin(tilt)) / a
    v = (dy * np.cos(tilt) - dx * np.sin(tilt)) / b
    return np.hypot(u, v), np.arctan2(v, u)
