"""How fast and how accurate the search for near-duplicates is.

Makes the figures of "How near-duplicates are found" in docs/data.md. Without --data: the time by the number of images.
With it: which altered copies of its images are found, and how similar images of different centers or patients are.
"""

import argparse
import io
import time
from collections.abc import Sequence

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageOps
from scipy.ndimage import gaussian_filter

from busfast.data.duplicates import SAME, near_duplicates
from busfast.data.fingerprint import SIDE, fingerprint_images
from busfast.data.images import read_image
from busfast.data.table import read_table
from busfast.errors import UserError


def measure_growth(counts: Sequence[int] = (1000, 3000, 10_000, 30_000, 100_000)) -> None:
    """Prints the time to search generated thumbnails, a tenth of them noisy copies, by their number."""
    previous = None
    for count in counts:
        rng = np.random.default_rng(0)
        seeds = np.arange(count)
        seeds[:count // 10] = seeds[count // 2:count // 2 + count // 10]
        thumbnails = []
        for seed in seeds:
            noise = gaussian_filter(np.random.default_rng(seed).normal(0, 240, (SIDE, SIDE)), 2)
            thumbnails.append((128 + noise + rng.normal(0, 4, noise.shape)).clip(0, 255).astype(np.uint8).tobytes())
        prints = pd.DataFrame({"reason": "", "low": 0, "high": 255, "thumbnail": thumbnails})
        started = time.perf_counter()
        pairs = near_duplicates(prints)
        seconds = time.perf_counter() - started
        growth = (f", grows as n^{np.log(seconds / previous[1]) / np.log(count / previous[0]):.2f}" if previous else "")
        print(f"{count:>7,} images: {seconds:7.2f} s, {len(pairs):,} pairs{growth}", flush=True)
        previous = count, seconds


def measure_recall(data: str, sample: int = 300) -> None:
    """Adds altered copies of some images to a data set; prints the share of them that is found, change by change."""
    paths = read_table(data).image_paths()
    prints = fingerprint_images(paths)
    chosen = np.random.default_rng(0).choice(len(paths), min(sample, len(paths)), replace=False)
    for name, change in CHANGES.items():
        copies = [_fingerprint(change(read_image(paths[row]).convert("L"))) for row in chosen]
        pairs = near_duplicates(pd.concat([prints, pd.DataFrame(copies)], ignore_index=True))
        paired = set(zip(pairs["a"], pairs["b"], strict=True))
        share = np.mean([(row, len(prints) + number) in paired for number, row in enumerate(chosen)])
        print(f"{name:30} found: {share:.3f}", flush=True)


def measure_strangers(data: str) -> None:
    """Prints the most similar images of different centers or patients."""
    table = read_table(data)
    pairs = near_duplicates(fingerprint_images(table.image_paths()), same=0.3)
    rows = table.rows
    patient, center = rows["patient"].to_numpy(), rows["center"].to_numpy()
    named = patient != ""
    a, b = pairs["a"].to_numpy(), pairs["b"].to_numpy()
    strangers = pairs[(center[a] != center[b]) | (named[a] & named[b] & (patient[a] != patient[b]))]
    centers, patients = rows.groupby("center").size(), rows[named].groupby(["center", "patient"]).size()
    across = (len(table) ** 2 - (centers**2).sum()) // 2
    within = ((patients.groupby("center").sum() ** 2).sum() - (patients**2).sum()) // 2
    alike = int((strangers["similarity"] >= SAME).sum())
    print(f"{across + within:,} pairs of different centers or patients, {alike} at {SAME} or more; the most similar:")
    for pair in strangers.head(12).itertuples():
        print(f"  {pair.similarity:.2f}  {rows['image'][pair.a]}  {rows['image'][pair.b]}")


def _fingerprint(image: Image.Image) -> dict:
    """The columns of a fingerprint that the search needs."""
    low, high = image.getextrema()
    small = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return {"reason": "", "low": low, "high": high, "thumbnail": small.tobytes()}


def _jpeg(quality: int):
    def change(image):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer).convert("L")
    return change


def _curve(function):
    return lambda image: image.point([int(min(255, max(0, function(value)))) for value in range(256)])


def _crop(left: float = 0, top: float = 0, right: float = 0, bottom: float = 0):
    return lambda image: image.crop((int(image.width * left), int(image.height * top),
                                     int(image.width * (1 - right)), int(image.height * (1 - bottom))))


def _mark(image: Image.Image) -> Image.Image:
    image = image.copy()
    draw = ImageDraw.Draw(image)
    for x, y in ((0.3 * image.width, 0.3 * image.height), (0.6 * image.width, 0.5 * image.height)):
        draw.line((x - 6, y, x + 6, y), fill=255)
        draw.line((x, y - 6, x, y + 6), fill=255)
    draw.text((0.05 * image.width, 0.85 * image.height), "RT BREAST 3:00 D1 1.2 cm", fill=255)
    return image


CHANGES = {
    "JPEG, quality 50": _jpeg(50), "JPEG, quality 20": _jpeg(20),
    "resized to 60%": lambda image: image.resize((int(0.6 * image.width), int(0.6 * image.height))),
    "brightness +30": _curve(lambda value: value + 30), "contrast x 0.6": _curve(lambda value: 50 + 0.6 * value),
    "contrast x 1.4": _curve(lambda value: 1.4 * (value - 128) + 128),
    "gamma 0.6": _curve(lambda value: 255 * (value / 255) ** 0.6),
    "gamma 1.7": _curve(lambda value: 255 * (value / 255) ** 1.7),
    "calipers and text": _mark, "mirrored": ImageOps.mirror,
    "5% off the top": _crop(top=0.05), "5% off the left": _crop(left=0.05), "5% off the bottom": _crop(bottom=0.05),
    "5% off every side": _crop(0.05, 0.05, 0.05, 0.05),
    "10% off the top": _crop(top=0.1), "10% off the left": _crop(left=0.1), "10% off the bottom": _crop(bottom=0.1),
    "10% off every side": _crop(0.1, 0.1, 0.1, 0.1), "rotated by 3 degrees": lambda image: image.rotate(3),
    "upside down": ImageOps.flip,
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python benchmarks/duplicates.py", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="FOLDER", help="folder with table.csv and the images")
    data = parser.parse_args(argv).data
    if data is None:
        return measure_growth()
    try:
        measure_strangers(data)
        measure_recall(data)
    except UserError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
