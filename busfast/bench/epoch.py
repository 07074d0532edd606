"""bench epoch: a training epoch from the files to the last step, against a stock fastai Learner and the ceiling."""

from pathlib import Path

import torch

from busfast.bench import peers
from busfast.bench.arena import Contender, Ready, compete, pick
from busfast.bench.images import Images
from busfast.bench.job import Job
from busfast.bench.learners import BareLoop, ResidentBatch, busfast_learner, epoch_seconds, stock_learner
from busfast.bench.report import MEDIAN, MEMORY, Report, Target, reasons, tabulate
from busfast.pipelines import resident
from busfast.pipelines.dataloaders import make_dls

BASE = "stock fastai Learner"
TARGETS = (
    Target("busfast cached", BASE, 2.5), Target("busfast cached", "ceiling", 0.97),
    Target("busfast cached", BASE, 1.2, at_most=True, column="memory_mb"),
)


def stock(job: Job, arch: str) -> Ready:
    """fastai as in its documentation: the same squash, flip and rotation, worker processes, NCHW."""
    from fastai.vision.augment import Resize, ResizeMethod, aug_transforms

    augmentation = aug_transforms(max_rotate=15, max_zoom=1, max_lighting=0, max_warp=0, p_affine=1)
    dls = peers.fastai_dls(job, Resize(job.size, method=ResizeMethod.Squish), augmentation)
    return _learner(stock_learner(dls, arch), job, job.bs * len(dls.train))


def busfast(job: Job, arch: str, cache: str = "off", share: float = resident.SHARE) -> Ready:
    """busfast as `train` builds it. `share`: of the GPU's free memory that decoded pixels may take."""
    resident.SHARE = share
    dls = make_dls(job.images.parts(), job.pipeline(), classes=job.images.classes, bs=job.bs,
                   device=job.device.type, threads=job.workers, cache=cache)
    return _learner(busfast_learner(arch, dls=dls), job, len(job.images.paths))


def _learner(learn, job: Job, count: int) -> Ready:
    warm = torch.rand(job.bs, 3, job.size, job.size, device=job.device).contiguous(memory_format=torch.channels_last)

    epochs = _epochs(job)

    def measure() -> float:
        _allocate_memory(learn.model, warm)
        return epochs * count / epoch_seconds(learn, epochs)

    return Ready(measure, {})


def ceiling(job: Job, arch: str) -> Ready:
    """The bare loop on a resident batch, with the steps of an epoch."""
    batches = ResidentBatch(job.size, job.bs, _epochs(job) * (len(job.images.paths) // job.bs), True, job.device)
    loop = BareLoop(arch, batches)

    def measure() -> float:
        _allocate_memory(loop.model, batches.batch[0])
        return len(batches) * job.bs / loop.seconds()

    return Ready(measure, {})


def _epochs(job: Job) -> int:
    """Epochs of a measurement: a GPU does many in the time of one on a CPU."""
    return 1 if job.device.type == "cpu" else 8


def _allocate_memory(model: torch.nn.Module, pixels: torch.Tensor) -> None:
    """A pass that is not timed: contenders return their memory between turns, which epochs of a run do not."""
    model.to(pixels.device).train()(pixels).sum().backward()
    model.zero_grad()


def run(folder: Path, images: Images, arch: str, size: int, bs: int, rounds: int, threads: int,
        device: torch.device, only: list[str]) -> Report:
    """Measures training epochs; takes the flags of `bench`, and a temporary folder."""
    settings = {"job": Job(images, size, bs, threads, str(folder), device), "arch": arch}
    contenders = [Contender(BASE, stock, settings), Contender("busfast uncached", busfast, settings),
                  Contender("busfast cached", busfast, settings | {"cache": str(folder / "cache")}),
                  Contender("ceiling", ceiling, settings)]
    if device.type == "cuda":
        contenders.append(Contender("busfast cached, on the disk", busfast, settings | {
            "cache": str(folder / "cache"), "share": 0.0}))
    outcomes = compete(pick(contenders, only), rounds)
    notes = [
        f"Images: {images.description}.",
        f"{arch}, {size} px, batches of {bs}, no validation; {threads} threads or worker processes to load the images. "
        f"{MEDIAN.format(rounds)}",
        "All but the ceiling squash, flip and rotate by up to 15 degrees.",
        "ceiling: the same model with all parts of the fast step, in a bare loop on one batch in memory, with the "
        "steps of an epoch.",
        MEMORY,
    ]
    return Report(f"Training epochs of {arch}, {size} px", tabulate(outcomes, BASE),
                  ("img_per_s", "images a second"), TARGETS, notes, reasons(outcomes))
