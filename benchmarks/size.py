"""Does loading or training slow down, or memory grow, with the number of cached images?

Makes the table "Against size" of docs/performance.md. 100,000 images take 4 GB of disk.
"""

import io
import shutil
from itertools import islice
from pathlib import Path

import pandas as pd
import torch
from common import run_study

from busfast.bench import ARCH
from busfast.bench.arena import Contender, Outcome, Ready, compete
from busfast.bench.images import VALID, draw_radiograph
from busfast.bench.job import measure_speed
from busfast.bench.learners import busfast_learner, epoch_seconds
from busfast.bench.report import Report, Target, reasons, tabulate
from busfast.csvfile import write_csv
from busfast.data.table import CLASSES, Table
from busfast.errors import UserError
from busfast.pipelines.dataloaders import make_dls
from busfast.pipelines.image import ImagePipeline
from busfast.progress import progress

DEFAULTS = {"images": 100_000, "arch": ARCH, "size": 128, "bs": 32, "rounds": 3, "threads": 2}
PICTURES = 64  # different pictures; a comment makes each file different
STEPS = 16  # training steps of a measurement, on batches drawn at random from all images
FILE_BYTES = 8192  # of a file on the disk, about


class FirstBatches:
    """The first batches of each epoch of a DataLoader."""

    def __init__(self, dl, steps: int):
        self.dl, self.steps = dl, steps
        self.device, self.bs = dl.device, dl.bs

    def __len__(self):
        return self.steps

    def __iter__(self):
        return islice(self.dl, self.steps)


def load(root: str, count: int, cache: str, size: int, bs: int, threads: int) -> Ready:
    """Whole epochs of loading, without training."""
    dls = _cached_dls(root, count, cache, size, bs, threads)

    def epoch():
        for pixels, _ in dls.train:
            yield pixels.as_subclass(torch.Tensor)

    return Ready(lambda: measure_speed(epoch), {"images": count})


def train(root: str, count: int, cache: str, size: int, bs: int, threads: int, arch: str) -> Ready:
    """The first training steps of epochs."""
    learn = busfast_learner(arch, dls=_cached_dls(root, count, cache, size, bs, threads))
    steps = min(STEPS, len(learn.dls.train))
    learn.dls.loaders[0] = FirstBatches(learn.dls.train, steps)
    return Ready(lambda: steps * bs / epoch_seconds(learn), {"images": count})


def _cached_dls(root: str, count: int, cache: str, size: int, bs: int, threads: int):
    table = pd.read_csv(Path(root) / "table.csv", dtype=object)[:count]
    rows = pd.concat([table.assign(part="train"), table[:VALID].assign(part="valid")], ignore_index=True)
    return make_dls(Table(rows, Path(root)), ImagePipeline(size=size), bs=bs, device="cpu", threads=threads,
                    cache=cache)


def write_images(root: Path, count: int, size: int) -> None:
    """Writes small gray JPEGs, no two files the same, and their table.csv; about 10,000 a second.

    Args:
        root: the data folder, created here.
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


def check_disk(folder: Path, counts: list[int], size: int) -> None:
    """Refuses what the disk cannot hold.

    Raises:
        UserError: with the bytes that are needed and free.
    """
    need, free = sum(counts) * size**2 + max(counts) * FILE_BYTES, shutil.disk_usage(folder).free
    if need > 0.9 * free:
        raise UserError(f"{max(counts):,} images of {size} px need {need / 1e9:.1f} GB, and {free / 1e9:.1f} GB are "
                        f"free in {folder}. Take fewer (--images), smaller ones (--size), or another disk (the "
                        "environment variable TMPDIR).")


def run(folder: Path, images: int, arch: str, size: int, bs: int, rounds: int, threads: int) -> Report:
    """Measures loading and training of a hundredth, a tenth and all of the images.

    Args:
        folder: to write to; the caller removes it.
        images: the largest number of images, 100 times `bs` or more.
        arch: timm model.
        size: side of the images, pixels.
        bs: images per batch.
        rounds: counted rounds.
        threads: as that of `make_dls`.

    Raises:
        UserError: too few images, or too little disk space.
    """
    if images < 100 * bs:
        raise UserError(f"images={images} is too few: a hundredth of them must fill a batch of {bs}. Give "
                        f"{100 * bs} or more, or a smaller --bs.")
    counts = [images // 100, images // 10, images]
    check_disk(folder, counts, size)
    root = folder / "images"
    write_images(root, images, size)
    names = {kind: [f"{kind}, {count:,} images" for count in counts] for kind in ("loading", "training")}
    contenders = []
    for kind, make, more in (("loading", load, {}), ("training", train, {"arch": arch})):
        for name, count in zip(names[kind], counts, strict=True):
            settings = {"root": str(root), "count": count, "cache": str(folder / f"cache-{count}"), "size": size,
                        "bs": bs, "threads": threads}
            contenders.append(Contender(name, make, settings | more))
    outcomes = compete(contenders, rounds, at_once=1)  # the first builds a cache that the others read
    targets = [Target(group[-1], group[0], *bound) for group in names.values()
               for bound in ((0.9,), (1.1, True, "own_mb"))]
    notes = [
        f"Gray JPEGs of {size} px, {PICTURES} different pictures, no two files alike; cached at {size} px.",
        f"loading: whole epochs, {threads} threads; training: {arch}, {STEPS} steps on batches drawn from all images; "
        f"batches of {bs}; {rounds} interleaved rounds after a warm-up; img_per_s is the median, img_per_s_iqr the "
        "interquartile range; ratio: to the fewest images.",
        "own_mb, mapped_mb: resident memory after the last round: anonymous, and pages of mapped files.",
    ]
    return Report("Cost against the number of cached images", tabulate_memory(outcomes, names),
                  ("img_per_s", "images a second"), targets, notes, reasons(outcomes))


def tabulate_memory(outcomes: list[Outcome], names: dict[str, list[str]]) -> pd.DataFrame:
    """Makes the rows of the report: those of `tabulate`, each kind against its first, with own_mb and mapped_mb."""
    by_name = {outcome.name: outcome for outcome in outcomes}
    rows = pd.concat([tabulate([by_name[name] for name in group], group[0], ["images"], memory=False)
                      for group in names.values()], ignore_index=True)
    return rows.assign(own_mb=[by_name[name].own / 1e6 for name in rows["name"]],
                       mapped_mb=[by_name[name].mapped / 1e6 for name in rows["name"]])


if __name__ == "__main__":
    run_study("size", __doc__, DEFAULTS, run)
