"""bench size: does loading or training slow down, or memory grow, with the number of cached images?"""

import io
import shutil
from itertools import islice
from pathlib import Path

import pandas as pd
import torch

from busfast.bench.arena import Contender, Outcome, Ready, compete
from busfast.bench.job import speed
from busfast.bench.learners import busfast_learner, epoch_seconds
from busfast.bench.own_images import VALID, draw_radiograph
from busfast.bench.report import Report, Target, reasons, tabulate
from busfast.csvfile import write_csv
from busfast.data.table import CLASSES
from busfast.errors import UserError
from busfast.pipelines.dataloaders import make_dls
from busfast.pipelines.image import ImagePipeline
from busfast.progress import progress

PICTURES = 64  # different ones; every file is made different by a comment in it
STEPS = 16  # of a training turn, on batches drawn at random from all images
FILE = 8192  # bytes that a file takes on the disk, about


class Beginning:
    """The first batches of each epoch of a DataLoader."""

    def __init__(self, dl, steps: int):
        self.dl, self.steps = dl, steps
        self.device, self.bs = dl.device, dl.bs

    def __len__(self):
        return self.steps

    def __iter__(self):
        return islice(self.dl, self.steps)


def loading(root: str, count: int, cache: str, size: int, bs: int, threads: int) -> Ready:
    """Whole epochs of loading alone."""
    dls = _cached(root, count, cache, size, bs, threads)

    def epoch():
        for pixels, _ in dls.train:
            yield pixels.as_subclass(torch.Tensor)

    return Ready(lambda: speed(epoch), {"images": count})


def training(root: str, count: int, cache: str, size: int, bs: int, threads: int, arch: str) -> Ready:
    """The first training steps of epochs."""
    learn = busfast_learner(arch, dls=_cached(root, count, cache, size, bs, threads))
    steps = min(STEPS, len(learn.dls.train))
    learn.dls.loaders[0] = Beginning(learn.dls.train, steps)
    return Ready(lambda: steps * bs / epoch_seconds(learn), {"images": count})


def _cached(root: str, count: int, cache: str, size: int, bs: int, threads: int):
    table = pd.read_csv(Path(root) / "table.csv", dtype=object)[:count]
    table = pd.concat([table.assign(part="train"), table[:VALID].assign(part="valid")], ignore_index=True)
    table.attrs["root"] = root
    return make_dls(table, ImagePipeline(size=size), bs=bs, device="cpu", threads=threads, cache=cache)


def write_images(root: Path, count: int, size: int) -> None:
    """Writes small gray JPEGs, no two files the same, and their table.csv; about 10,000 a second.

    Args:
        root: the data folder, made here.
        count: number of images.
        size: side, pixels.
    """
    (root / "images").mkdir(parents=True)
    pictures = []
    for number in range(min(PICTURES, count)):
        buffer = io.BytesIO()
        draw_radiograph(number, size, size).save(buffer, "JPEG", quality=90)
        pictures.append(buffer.getvalue())
    names = [f"images/{number:07}.jpg" for number in range(count)]
    for number, name in enumerate(progress(names, "writing images")):
        picture, comment = pictures[number % len(pictures)], b"%010d" % number
        marker = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big")
        (root / name).write_bytes(picture[:2] + marker + comment + picture[2:])
    labels = [CLASSES[number % len(CLASSES)] for number in range(count)]
    write_csv(pd.DataFrame({"image": names, "label": labels}), root / "table.csv")


def check_room(folder: Path, counts: list[int], size: int) -> None:
    """Refuses what the disk cannot hold.

    Raises:
        UserError: names what is needed and what is there.
    """
    need, free = sum(counts) * size**2 + max(counts) * FILE, shutil.disk_usage(folder).free
    if need > 0.9 * free:
        raise UserError(f"bench size needs {need / 1e9:.1f} GB for up to {max(counts):,} images of {size} px, and "
                        f"{free / 1e9:.1f} GB are free in {folder}. Take fewer (--images), smaller ones (--size), or "
                        "another disk (the environment variable TMPDIR).")


def run(folder: Path, images: int, arch: str, size: int, bs: int, rounds: int, threads: int) -> Report:
    """Measures loading and training of a hundredth, a tenth and all of a number of images.

    Args:
        folder: to write to; the caller removes it.
        images: the largest number of images.
        arch: timm model.
        size: side of the images, pixels.
        bs: images a batch.
        rounds: counted rounds.
        threads: as that of `make_dls`.
    """
    counts = [images // 100, images // 10, images]
    check_room(folder, counts, size)
    root = folder / "images"
    write_images(root, images, size)
    names = {kind: [f"{kind}, {count:,} images" for count in counts] for kind in ("loading", "training")}
    listed = []
    for kind, make, more in (("loading", loading, {}), ("training", training, {"arch": arch})):
        for name, count in zip(names[kind], counts, strict=True):
            settings = {"root": str(root), "count": count, "cache": str(folder / f"cache-{count}"), "size": size,
                        "bs": bs, "threads": threads}
            listed.append(Contender(name, make, settings | more))
    outcomes = compete(listed, rounds, at_once=1)  # one builds a cache, the next one finds it
    targets = [Target(of[-1], of[0], *bound) for of in names.values()
               for bound in ((0.9,), (1.1, True, "own_mb"))]
    notes = [
        f"Gray JPEGs of {size} px, {PICTURES} different pictures, no two files alike; cached at {size} px.",
        f"loading: whole epochs, {threads} threads; training: {arch}, {STEPS} steps on batches drawn from all images; "
        f"batches of {bs}; {rounds} rounds in turn after one that is not counted; img_per_s is the median, "
        "img_per_s_iqr the spread of its middle half; ratio: to the fewest images.",
        "own_mb, mapped_mb: what the process held after the last round, its own and pages of files mapped into it.",
    ]
    return Report("Cost against the number of cached images", _rows(outcomes, names),
                  ("img_per_s", "images a second"), targets, notes, reasons(outcomes))


def _rows(outcomes: list[Outcome], names: dict[str, list[str]]) -> pd.DataFrame:
    found = {one.name: one for one in outcomes}
    rows = pd.concat([tabulate([found[name] for name in of], of[0], ["images"], memory=False)
                      for of in names.values()], ignore_index=True)
    return rows.assign(own_mb=[found[name].own / 1e6 for name in rows["name"]],
                       mapped_mb=[found[name].mapped / 1e6 for name in rows["name"]])
