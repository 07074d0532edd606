"""Training epochs alone and beside two busy processes: as busfast trains, with one thread, and with threads that spin.

Makes the table "Beside other processes" of docs/performance.md. The threads of torch's OpenMP spin while they wait for
each other, unless busfast (GOMP_SPINCOUNT) tells them to sleep after a moment.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common import run_study

from busfast.bench import ARCH
from busfast.bench.arena import Contender, Ready, compete, pick
from busfast.bench.images import Images, gather
from busfast.bench.learners import busfast_learner, epoch_seconds
from busfast.bench.report import MEDIAN, Report, Target, reasons, tabulate
from busfast.pipelines.dataloaders import make_dls
from busfast.pipelines.image import ImagePipeline
from busfast.pipelines.threads import use_threads

DEFAULTS = {"images": 128, "arch": ARCH, "size": 128, "bs": 32, "rounds": 3, "only": ""}
BUSY = 2  # processes
WAYS = {  # name -> threads (0: automatic), environment
    "busfast": (0, {}), "busfast, one thread": (1, {}),
    "threads that spin": (0, {"GOMP_SPINCOUNT": "300000"}),  # libgomp's default
}
PLACES = {"alone": 0, "busy": BUSY}
TARGETS = (Target("busfast, busy", "busfast, one thread, busy", 0.67),  # at most 1.5 times its seconds
           Target("busfast, alone", "threads that spin, alone", 0.97))


@contextmanager
def busy_processes(count: int) -> Iterator[list[subprocess.Popen]]:
    """Keeps as many processes busy."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def train(images: Images, cache: str, arch: str, size: int, bs: int, threads: int, busy: int) -> Ready:
    """Whole epochs of training, beside busy processes."""
    number = use_threads(threads)
    learn = busfast_learner(arch, dls=make_dls(images.parts(), ImagePipeline(size=size), classes=images.classes, bs=bs,
                                               device="cpu", threads=threads, cache=cache))

    def measure() -> float:
        with busy_processes(busy):
            return len(images.paths) / epoch_seconds(learn)

    return Ready(measure, {"threads": number})


def run(folder: Path, images: int, arch: str, size: int, bs: int, rounds: int, only: list[str]) -> Report:
    """Measures each way in each place.

    Args:
        folder: to write to; the caller removes it.
        images: number of images.
        arch: timm model.
        size: side of the images, pixels.
        bs: images per batch.
        rounds: counted rounds.
        only: words of rows' names; empty: all.
    """
    settings = {"images": gather(None, images, folder / "images"), "cache": str(folder / "cache"), "arch": arch,
                "size": size, "bs": bs}
    contenders = [Contender(f"{name}, {place}", train, settings | {"threads": threads, "busy": busy},
                            environment=environment)
                  for place, busy in PLACES.items() for name, (threads, environment) in WAYS.items()]
    outcomes = compete(pick(contenders, only), rounds, at_once=1)  # the first builds a cache that the others read
    notes = [
        f"{arch}, {size} px, batches of {bs}, {images} images from the cache, no validation. {MEDIAN.format(rounds)}",
        f"busy: beside {BUSY} processes that do nothing but compute.",
        "threads: of torch. one thread: --threads=1. threads that spin: torch's default, GOMP_SPINCOUNT=300000.",
    ]
    return Report("Training epochs beside other processes",
                  tabulate(outcomes, contenders[0].name, ["threads"], memory=False),
                  ("img_per_s", "images a second"), TARGETS, notes, reasons(outcomes))


if __name__ == "__main__":
    run_study("busy", __doc__, DEFAULTS, run)
