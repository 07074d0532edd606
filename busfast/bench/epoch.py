"""bench epoch: a training epoch from files to the last step, against a stock fastai Learner and the ceiling."""

from pathlib import Path

import torch

from busfast.bench import peers
from busfast.bench.arena import Contender, Ready, compete, pick
from busfast.bench.job import Job
from busfast.bench.learners import BareLoop, Resident, busfast_learner, epoch_seconds, stock_learner
from busfast.bench.own_images import Images
from busfast.bench.report import Report, Target, reasons, tabulate
from busfast.pipelines.dataloaders import make_dls

BASE = "stock fastai Learner"
TARGETS = (
    Target("busfast cached", BASE, 2.5), Target("busfast cached", "ceiling", 0.95),
    Target("busfast cached", BASE, 1.2, at_most=True, column="memory_mb"),
)


def stock(job: Job, arch: str) -> Ready:
    """fastai as its documentation has it: the same squash, flip and rotation, worker processes, NCHW."""
    from fastai.vision.augment import Resize, ResizeMethod, aug_transforms

    moves = aug_transforms(max_rotate=15, max_zoom=1, max_lighting=0, max_warp=0, p_affine=1)
    dls = peers.fastai_dls(job, Resize(job.size, method=ResizeMethod.Squish), moves)
    return _learner(stock_learner(dls, arch), job, job.bs * len(dls.train))


def busfast(job: Job, arch: str, cache: str = "off") -> Ready:
    """busfast as `train` puts it together."""
    dls = make_dls(job.images.parts(), job.pipeline(), classes=job.images.classes, bs=job.bs, device="cpu",
                   threads=job.workers, cache=cache)
    return _learner(busfast_learner(arch, dls=dls), job, len(job.images.paths))


def _learner(learn, job: Job, count: int) -> Ready:
    warm = torch.rand(job.bs, 3, job.size, job.size).contiguous(memory_format=torch.channels_last)

    def turn() -> float:
        _fetch_memory(learn.model, warm)
        return count / epoch_seconds(learn)

    return Ready(turn, {})


def ceiling(job: Job, arch: str) -> Ready:
    """The bare loop on a resident batch, as many steps as an epoch has."""
    batches = Resident(job.size, job.bs, len(job.images.paths) // job.bs, channels_last=True)
    loop = BareLoop(arch, batches)

    def turn() -> float:
        _fetch_memory(loop.model, batches.batch[0])
        return len(batches) * job.bs / loop.seconds()

    return Ready(turn, {})


def _fetch_memory(model: torch.nn.Module, pixels: torch.Tensor) -> None:
    """A pass that is not timed: what contenders give back between turns is no cost of an epoch within a run."""
    model.train()(pixels).sum().backward()
    model.zero_grad()


def run(folder: Path, images: Images, arch: str, size: int, bs: int, rounds: int, threads: int,
        only: list[str]) -> Report:
    """Measures training epochs.

    Args:
        folder: to write to; the caller removes it.
        images: what is trained on.
        arch: timm model.
        size: side of the images, pixels.
        bs: images a batch.
        rounds: counted rounds.
        threads: threads or worker processes each has to load with.
        only: words of contenders' names; empty: all.
    """
    settings = {"job": Job(images, size, bs, threads, str(folder)), "arch": arch}
    listed = [Contender(BASE, stock, settings), Contender("busfast uncached", busfast, settings),
              Contender("busfast cached", busfast, settings | {"cache": str(folder / "cache")}),
              Contender("ceiling", ceiling, settings)]
    outcomes = compete(pick(listed, only), rounds)
    notes = [
        f"Images: {images.said}.",
        f"{arch}, {size} px, batches of {bs}, no validation; {threads} threads or worker processes to load with; "
        f"{rounds} rounds in turn after one that is not counted; img_per_s is the median, img_per_s_iqr the spread of "
        "its middle half.",
        "All but the ceiling stretch, flip and rotate by up to 15 degrees.",
        "ceiling: the same model with all parts in a bare loop on one resident batch, as many steps as an epoch has.",
        "memory_mb: the most that the process was resident in, and what its workers held for themselves.",
    ]
    return Report(f"Training epochs of {arch}, {size} px", tabulate(outcomes, BASE),
                  ("img_per_s", "images a second"), TARGETS, notes, reasons(outcomes))
