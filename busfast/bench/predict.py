"""bench predict: predictions of a folder of images, against a timm loop."""

from pathlib import Path

import timm
import torch
from torch.utils.data import DataLoader

from busfast.bench.arena import Contender, Ready, compete, pick
from busfast.bench.images import Images
from busfast.bench.job import Job, measure_speed
from busfast.bench.peers import Files, open_pillow, pillow_transform
from busfast.bench.report import MEDIAN, MEMORY, Report, Target, reasons, tabulate
from busfast.errors import UserError
from busfast.inference.run_model import load_model
from busfast.inference.stream import predict_images

BASE = "timm eager"
WEIGHTS, EXPECTED = "weights.pth", "expected.pth"
TOLERANCE = 1e-3  # of probabilities
TARGETS = (Target("busfast predict", BASE, 2),)


def busfast(job: Job, arch: str) -> Ready:
    """`busfast predict` of a folder, without loading the model."""
    learn = load_model(Path(job.folder) / WEIGHTS, arch, job.pipeline(), job.images.classes, bs=job.bs,
                       device=job.device.type, threads=job.workers)

    def probabilities():
        table = predict_images(learn, list(job.images.paths))
        yield torch.from_numpy(table[[f"p_{name}" for name in job.images.classes]].to_numpy("float32"))

    return _ready(probabilities, job)


def timm_eager(job: Job, arch: str) -> Ready:
    """A DataLoader with workers, Pillow and torchvision's transforms, and the model in eval mode without gradients."""
    model = timm.create_model(arch, num_classes=len(job.images.classes)).eval().to(job.device)
    model.load_state_dict(torch.load(Path(job.folder) / WEIGHTS, weights_only=True))
    loader = DataLoader(Files(job.images.paths, open_pillow, pillow_transform(job, augment=False)), job.bs,
                        num_workers=job.workers, persistent_workers=job.workers > 0,
                        pin_memory=job.device.type == "cuda")

    @torch.no_grad()
    def probabilities():
        for pixels, _ in loader:
            yield model(pixels.to(job.device, non_blocking=True)).softmax(dim=1)

    return _ready(probabilities, job)


def _ready(probabilities, job: Job) -> Ready:
    expected = torch.load(Path(job.folder) / EXPECTED, weights_only=True)
    difference = float((torch.cat(list(probabilities())).cpu() - expected).abs().max())
    if not difference <= TOLERANCE:
        raise UserError(f"its probabilities differ from the reference by up to {difference:.4f}, more than "
                        f"{TOLERANCE:g}")
    return Ready(lambda: measure_speed(lambda: (batch[:, :, None, None] for batch in probabilities()), job.device),
                 {"apart": difference})


def write_weights(job: Job, arch: str) -> None:
    """Writes a model and timm's probabilities of all images with it.
    The weights are random, but batch normalization has seen the images, so that their probabilities differ."""
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
        device: torch.device, only: list[str]) -> Report:
    """Measures predicting; takes the flags of `bench`, and a temporary folder."""
    job = Job(images, size, bs, threads, str(folder), device)
    settings = {"job": job, "arch": arch}
    contenders = pick([Contender(BASE, timm_eager, settings), Contender("busfast predict", busfast, settings)], only)
    write_weights(job, arch)
    outcomes = compete(contenders, rounds)
    notes = [
        f"Images: {images.description}.",
        f"{arch}, {size} px, batches of {bs}, without loading the model; {threads} threads or worker processes to load "
        f"the images. {MEDIAN.format(rounds)}",
        f"{BASE}: DataLoader, Pillow, Resize, ToTensor, Normalize; model.eval(), torch.no_grad().",
        "apart: the largest difference of a probability to timm's on the reference pixels, same weights.",
        MEMORY,
    ]
    return Report(f"Predicting with {arch}, {size} px", tabulate(outcomes, BASE, ["apart"]),
                  ("img_per_s", "images a second"), TARGETS, notes, reasons(outcomes))
