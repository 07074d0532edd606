"""bench loaders: images a second that each way of loading delivers for training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from busfast.bench import guests, ours, peers
from busfast.bench.arena import Contender, compete, pick
from busfast.bench.images import Images
from busfast.bench.job import Job
from busfast.bench.report import MEDIAN, MEMORY, Report, Target, reasons, tabulate

BASE = "fastai DataBlock"
FFCV = "FFCV raw 256 px"
TARGETS = (
    Target("busfast cached", BASE, 40), Target("busfast cached", "torch Pillow", 15),
    Target("busfast cached", FFCV, 1.5), Target("busfast uncached", "torch torchvision", 2),
    Target("busfast cached", "raw DALI cached", 0.95), Target("busfast uncached", "raw DALI", 1.1),
)


def contenders(job: Job) -> list[Contender]:
    """Returns all contenders, each with the same job."""
    dali = {"nvidia.dali": "nvidia-dali-cuda130"}
    cached = {"cache": str(Path(job.folder) / "cache")}
    makers: list[tuple[str, Callable[..., Any], dict[str, Any], dict[str, str]]] = [
        (BASE, peers.fastai_datablock, {}, {}), ("fastai RandomResizedCrop", peers.fastai_crop, {}, {}),
        ("torch Pillow", peers.torch_pillow, {}, {}), ("torch torchvision", peers.torch_torchvision, {}, {}),
        ("timm", peers.timm_loader, {}, {}), ("WebDataset", guests.webdataset, {}, {"webdataset": "webdataset"}),
        ("SPDL", guests.spdl, {}, {"spdl": "spdl"}), (FFCV, guests.ffcv, {}, {"ffcv": "ffcv"}),
        ("raw DALI", ours.raw_dali, {}, dali), ("raw DALI cached", ours.raw_dali, {"cached": True}, dali),
        ("busfast uncached", ours.busfast, {}, {}),
        ("busfast uncached, dali", ours.busfast, {"loader": "dali"}, dali),
        ("busfast uncached, torchvision", ours.busfast, {"loader": "torchvision"}, {}),
        ("busfast cached", ours.busfast, cached, {}),
        ("limit: decoding alone", ours.decode, {}, {}),
        ("limit: decoding and resizing alone", ours.decode, {"resize": True}, {}),
    ]
    return [Contender(name, make, {"job": job} | settings, packages) for name, make, settings, packages in makers]


def run(folder: Path, images: Images, size: int, bs: int, rounds: int, threads: int, device: torch.device,
        only: list[str]) -> Report:
    """Measures the loaders; takes the flags of `bench`, and a temporary folder."""
    job = Job(images, size, bs, threads, str(folder), device)
    outcomes = compete(pick(contenders(job), only), rounds)
    loader = next((one.facts["loader"] for one in outcomes if one.name == "busfast uncached" and one.values), None)
    notes = [
        f"Images: {images.description}. Small images favor the peers, huge ones favor the cache.",
        f"Each in its own process, {threads} threads or worker processes, batches of {bs}. {MEDIAN.format(rounds)}",
        "apart: mean absolute difference to the reference pixels, of 255, where the pipeline is the same (squash, "
        "flip, rotation by up to 15 degrees, normalization); empty: random crops, of which shape, type and range are "
        "checked.",
        MEMORY,
        "busfast: keeps freed memory, as in training (busfast.models.fast_step, keep_memory); checked: every image is "
        "delivered once per epoch" + (f"; its uncached loader here is {loader}." if loader else "."),
    ]
    return Report(f"Loading for training, {size} px", tabulate(outcomes, BASE, ["apart"]),
                  ("img_per_s", "images a second"), TARGETS, notes, reasons(outcomes))
