"""bench fastai: fastai code as its book writes it, plain and with `busfast.accelerate`: loading and training epochs."""

from dataclasses import replace
from pathlib import Path

import torch

from busfast.bench.arena import Contender, Ready, compete, pick
from busfast.bench.images import VALID, Images
from busfast.bench.job import Job, measure_speed
from busfast.bench.learners import SEED, epoch_seconds, stock_learner
from busfast.bench.report import MEDIAN, MEMORY, Report, Target, reasons, tabulate
from busfast.errors import UserError

PRESIZE = 460 / 224  # of the book: Resize(460), then aug_transforms(size=224)
ARCHS = ("resnet18", "efficientnet_b0")
EPOCH_IMAGES = 256  # of a training epoch; loading takes them all, so that its worker processes' start counts little
MAX_DIFFERENCE = 1.0  # mean absolute difference of the validation pixels, of 255
TARGETS = (Target("busfast: presize", "fastai: presize", 20), Target("busfast: resize", "fastai: resize", 1),
           Target("busfast: epoch of efficientnet_b0", "fastai: epoch of efficientnet_b0", 3),
           Target("busfast: epoch of resnet18", "fastai: epoch of resnet18", 1))


def fastai_dls(job: Job, presize: bool):
    """The book's DataLoaders: presizing with all augmentations, or Resize alone."""
    from fastai.torch_core import set_seed
    from fastai.vision.augment import Resize, aug_transforms
    from fastai.vision.data import ImageDataLoaders

    set_seed(SEED)
    table = job.images.parts().rows.assign(is_valid=lambda rows: rows["part"] == "valid")
    tfms = {"item_tfms": Resize(round(PRESIZE * job.size)), "batch_tfms": aug_transforms(size=job.size)} if presize \
        else {"item_tfms": Resize(job.size)}
    return ImageDataLoaders.from_df(table, job.images.root, fn_col="image", label_col="label", valid_col="is_valid",
                                    bs=job.bs, num_workers=job.workers, device=job.device, **tfms)


def make_dls(job: Job, presize: bool, fast: bool, cache: str):
    """Those DataLoaders, accelerated if `fast`; and the mean difference of their validation pixels to plain ones."""
    from busfast import accelerate

    dls, apart = fastai_dls(job, presize), 0.0
    if fast:
        expected = dls.valid.one_batch()[0]
        accelerate(dls, cache=cache, threads=job.workers)
        apart = float((dls.valid.one_batch()[0] - expected).abs().mean()) * 255
        if not apart < MAX_DIFFERENCE:
            raise UserError(f"its validation pixels differ from fastai's by {apart:.2f}/255")
    return dls, apart


def load(job: Job, presize: bool, fast: bool, cache: str = "off") -> Ready:
    """Training batches."""
    dls, apart = make_dls(job, presize, fast, cache)

    def epoch():
        return (x.as_subclass(torch.Tensor) for x, _ in dls.train)

    return Ready(lambda: measure_speed(epoch, job.device), {"apart": apart})


def train(job: Job, arch: str, fast: bool, cache: str = "off") -> Ready:
    """A training epoch of presized images, from the files to the last step."""
    from busfast import accelerate

    dls, apart = make_dls(job, True, fast, cache)
    learn = stock_learner(dls, arch)
    if fast:
        accelerate(learn)
    return Ready(lambda: len(dls.train) * job.bs / epoch_seconds(learn), {"apart": apart})


def run(folder: Path, images: Images, size: int, bs: int, rounds: int, threads: int, device: torch.device,
        only: list[str]) -> Report:
    """Measures plain and accelerated fastai code; takes the flags of `bench`, and a temporary folder."""
    job, contenders = Job(images, size, bs, threads, str(folder), device), []
    few = replace(images, **{key: getattr(images, key)[:EPOCH_IMAGES] for key in ("paths", "names", "labels")})
    for name, fast in (("fastai", False), ("busfast", True)):
        how = {"job": job, "fast": fast, "cache": str(folder / "cache") if fast else "off"}
        contenders += [Contender(f"{name}: presize", load, how | {"presize": True}),
                       Contender(f"{name}: resize", load, how | {"presize": False}),
                       *(Contender(f"{name}: epoch of {arch}", train, how | {
                           "arch": arch, "job": replace(job, images=few)}) for arch in ARCHS)]
    outcomes = compete(pick(contenders, only), rounds)
    notes = [
        f"Images: {images.description}.",
        f"presize: Resize({round(PRESIZE * size)}), aug_transforms(size={size}); resize: Resize({size}). "
        f"Batches of {bs}; {threads} threads or worker processes. {MEDIAN.format(rounds)}",
        "busfast: the same code with busfast.accelerate; its images were decoded before. Epochs are of "
        f"{len(few.paths)} presized images, without validation.",
        f"apart: mean difference of the {VALID} validation images' pixels to fastai's, of 255.",
        MEMORY,
    ]
    return Report(f"fastai code, plain and accelerated, {size} px", tabulate(outcomes, contenders[0].name, ["apart"]),
                  ("img_per_s", "images a second"), TARGETS, notes, reasons(outcomes), ("opencv-python-headless",))
