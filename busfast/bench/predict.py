"""bench predict: a folder of images through a trained model, against a plain timm loop."""

from pathlib import Path

import timm
import torch
from torch.utils.data import DataLoader

from busfast.bench.arena import Contender, Ready, compete, pick
from busfast.bench.job import Job, speed
from busfast.bench.own_images import Images
from busfast.bench.peers import Files, open_pillow, pillow_transform
from busfast.bench.report import Report, Target, reasons, tabulate
from busfast.errors import UserError
from busfast.inference.run_model import load_model
from busfast.inference.stream import predict_images

BASE = "timm eager"
WEIGHTS, EXPECTED = "weights.pth", "expected.pth"
SAME = 1e-3  # how far probabilities may be apart
TARGETS = (Target("busfast predict", BASE, 2),)


def busfast(job: Job, arch: str) -> Ready:
    """What `busfast predict` does with a folder once the model is loaded."""
    learn = load_model(Path(job.folder) / WEIGHTS, arch, job.pipeline(), job.images.classes, bs=job.bs, device="cpu",
                       threads=job.workers)

    def probabilities():
        table = predict_images(learn, list(job.images.paths))
        yield torch.from_numpy(table[[f"p_{name}" for name in job.images.classes]].to_numpy("float32"))

    return _ready(probabilities, job)


def timm_eager(job: Job, arch: str) -> Ready:
    """A DataLoader with workers, Pillow and torchvision's transforms, and the model in eval mode without gradients."""
    model = timm.create_model(arch, num_classes=len(job.images.classes)).eval()
    model.load_state_dict(torch.load(Path(job.folder) / WEIGHTS, weights_only=True))
    loader = DataLoader(Files(job.images.paths, open_pillow, pillow_transform(job, augment=False)), job.bs,
                        num_workers=job.workers, persistent_workers=job.workers > 0)

    @torch.no_grad()
    def probabilities():
        for pixels, _ in loader:
            yield model(pixels).softmax(dim=1)

    return _ready(probabilities, job)


def _ready(probabilities, job: Job) -> Ready:
    expected = torch.load(Path(job.folder) / EXPECTED, weights_only=True)
    apart = float((torch.cat(list(probabilities())) - expected).abs().max())
    if not apart <= SAME:
        raise UserError(f"its probabilities are up to {apart:.4f} away from the reference, more than {SAME:g}")
    return Ready(lambda: speed(lambda: (batch[:, :, None, None] for batch in probabilities())), {"apart": apart})


def write_weights(job: Job, arch: str) -> None:
    """Writes a model and the probabilities that plain timm gives all images with it.

    The weights are random, but the normalisation has seen the images, so that these differ in what is predicted.
    """
    torch.manual_seed(0)
    model = timm.create_model(arch, num_classes=len(job.images.classes)).to(memory_format=torch.channels_last)
    loader = DataLoader(Files(job.images.paths, open_pillow, pillow_transform(job, augment=False)), job.bs)
    with torch.no_grad():
        for pixels, _ in loader:
            model.train()(pixels)
            break
        expected = torch.cat([model.eval()(pixels).softmax(dim=1) for pixels, _ in loader])
    torch.save(model.state_dict(), Path(job.folder) / WEIGHTS)
    torch.save(expected, Path(job.folder) / EXPECTED)


def run(folder: Path, images: Images, arch: str, size: int, bs: int, rounds: int, threads: int,
        only: list[str]) -> Report:
    """Measures predicting.

    Args:
        folder: to write to; the caller removes it.
        images: what is predicted.
        arch: timm model.
        size: side of the images, pixels.
        bs: images a batch.
        rounds: counted rounds.
        threads: threads or worker processes each has to load with.
        only: words of contenders' names; empty: all.
    """
    job = Job(images, size, bs, threads, str(folder))
    settings = {"job": job, "arch": arch}
    listed = pick([Contender(BASE, timm_eager, settings), Contender("busfast predict", busfast, settings)], only)
    write_weights(job, arch)
    outcomes = compete(listed, rounds)
    notes = [
        f"Images: {images.said}.",
        f"{arch}, {size} px, batches of {bs}, the model loaded before; {threads} threads or worker processes to load "
        f"with; {rounds} rounds in turn after one that is not counted; img_per_s is the median, img_per_s_iqr the "
        "spread of its middle half.",
        f"{BASE}: DataLoader, Pillow, Resize, ToTensor, Normalize; model.eval(), torch.no_grad().",
        "apart: the largest difference of a probability from plain timm on reference pixels, same weights.",
        "memory_mb: the most that the process was resident in, and what its workers held for themselves.",
    ]
    return Report(f"Predicting with {arch}, {size} px", tabulate(outcomes, BASE, ["apart"]),
                  ("img_per_s", "images a second"), TARGETS, notes, reasons(outcomes))
