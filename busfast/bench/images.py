"""The images that a bench measures on: the user's, or generated JPEGs that resemble radiographs or photographs."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from busfast.csvfile import write_csv
from busfast.data.table import CLASSES, Table, read_table
from busfast.errors import UserError
from busfast.progress import progress

WIDTH, HEIGHT = 1000, 1400  # pixels, as of a bone radiograph scaled down for publication
PHOTOGRAPH = (500, 375)  # pixels, as of the Oxford pets
RADIOGRAPHS, PHOTOGRAPHS = "gray", "color"
QUALITY = 90
SEED = 42
VALID = 8  # images that are also in the validation part: DataLoaders need one, the benches do not measure it


@dataclass(frozen=True)
class Images:
    """The images of a bench; picklable, for its processes."""

    root: Path  # folder of the table
    paths: tuple[str, ...]  # their files
    names: tuple[str, ...]  # in the table
    labels: tuple[str, ...]
    description: str  # for people

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels that occur, sorted."""
        return tuple(sorted(set(self.labels)))

    def parts(self) -> Table:
        """Returns a split table: all images in the training part, the first few also in validation."""
        table = pd.DataFrame({"image": self.names, "label": self.labels})
        table = pd.concat([table.assign(part="train"), table[:VALID].assign(part="valid")], ignore_index=True)
        return Table(table, self.root)


def gather(data: str | None, count: int, folder: Path, kind: str = "gray") -> Images:
    """Takes images of a data folder, at random if it has more than `count`; without one, generates them in `folder`,
    gray (radiographs) or color (photographs). Raises UserError if the table is wrong."""
    draw = draw_photograph if kind == PHOTOGRAPHS else draw_radiograph
    table = read_table(data or make_images(folder, count, draw), other_labels=True)
    if len(table) > count:
        chosen = np.random.default_rng(SEED).permutation(len(table))[:count]
        table = replace(table, rows=table.rows.iloc[np.sort(chosen)].reset_index(drop=True))
    rows = table.rows
    if rows["label"].nunique() < 2:
        raise UserError(f"{table.file}, column label: all images have the label "
                        f"'{rows['label'][0]}'. Take a table with two labels or more.")
    paths = tuple(map(str, table.image_paths()))
    kilobytes = sum(Path(path).stat().st_size for path in paths) / len(paths) / 1000
    width, height = np.median([_read_size(path) for path in paths], axis=0)
    description = (f"{len(table)} images of {data}, {width:.0f}x{height:.0f} px (medians)" if data else
                   f"{len(table)} generated {kind} JPEGs, {width:.0f}x{height:.0f} px, quality {QUALITY}")
    return Images(table.root, paths, tuple(rows["image"]), tuple(rows["label"]),
                  f"{description}, {kilobytes:.0f} kB each on average")


def make_images(folder: Path, count: int, draw: Callable[[int], Image.Image]) -> Path:
    """Writes seeded JPEGs and their table.csv into a new folder; returns it."""
    (folder / "images").mkdir(parents=True)
    names = [f"images/{number:05}.jpg" for number in range(count)]

    def write(number: int) -> None:
        draw(number).save(folder / names[number], quality=QUALITY)

    with ThreadPoolExecutor() as pool:
        for _ in progress(pool.map(write, range(count)), "generating images", total=count):
            pass
    labels = [CLASSES[number % len(CLASSES)] for number in range(count)]
    write_csv(pd.DataFrame({"image": names, "label": labels}), folder / "table.csv")
    return folder


def draw_photograph(number: int) -> Image.Image:
    """Draws color noise with as much detail at every scale as photographs have; each `number` gives another image."""
    rng, (width, height) = np.random.default_rng([SEED, number]), PHOTOGRAPH
    layers = sum(np.stack([_field(rng, cells, width, height) for _ in range(3)], -1) * (4 / cells) ** 0.7
                 for cells in (4, 8, 16, 32, 64, 128, 256))
    return Image.fromarray(np.clip(128 + 40 * layers, 0, 255).astype(np.uint8))


def draw_radiograph(number: int, width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """Draws a limb in gray: soft tissue that fades out, a bone with a bright cortex and a spongy interior, film noise.
    Each `number` gives another image."""
    rng = np.random.default_rng([SEED, number])
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    axis = rng.uniform(-0.15, 0.15) + rng.uniform(-0.2, 0.2) * y + rng.uniform(-0.1, 0.1) * y**2
    away = np.abs(x - axis)
    limb = rng.uniform(0.6, 0.8) + 0.1 * np.sin(rng.uniform(0, 6) + 2 * y)
    tissue = np.sqrt(np.clip(1 - (away / limb) ** 2, 0, 1)) * (85 + 16 * _field(rng, 6, width, height))
    end = np.clip(np.abs(y - rng.uniform(-0.2, 0.2)) - 0.35, 0, 1)
    half = rng.uniform(0.14, 0.2) + 0.35 * end**1.5  # a shaft that widens towards its ends
    depth = (half - away) / half
    inside = np.clip(depth / 0.06, 0, 1)
    cortex = np.exp(-((depth - 0.16) / 0.12) ** 2) * (1.1 - end)
    spongy = _field(rng, 110, width, height) * (0.3 + end) + 0.6 * _field(rng, 40, width, height)
    bone = inside * (55 + 65 * cortex + 10 * spongy)
    film = rng.standard_normal((height, width), dtype=np.float32) * 2.6
    return Image.fromarray(np.clip(8 + tissue + bone + film, 0, 255).astype(np.uint8))


def _field(rng: np.random.Generator, cells: int, width: int, height: int) -> np.ndarray:
    """Smooth noise of mean 0 and deviation about 1: random values on a coarse grid, enlarged."""
    grid = rng.standard_normal((max(2, cells * height // width), cells), dtype=np.float32)
    return np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC))


def _read_size(path: str) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size
