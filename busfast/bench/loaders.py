"""bench loaders: how many images a second each way of loading delivers for training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from busfast.bench import guests, ours, peers
from busfast.bench.arena import Contender, compete, pick
from busfast.bench.job import Job
from busfast.bench.own_images import Images
from busfast.bench.report import Report, Target, reasons, tabulate

BASE = "fastai DataBlock"
FFCV = "FFCV raw 256 px"
TARGETS = (
    Target("busfast cached", BASE, 40), Target("busfast cached", "torch Pillow", 15),
    Target("busfast cached", FFCV, 1), Target("busfast uncached", "torch torchvision", 2),
    Target("busfast cached", "raw DALI cached", 0.95), Target("busfast uncached", "raw DALI", 0.95),
)


def contenders(job: Job) -> list[Contender]:
    """Returns everyone who competes, each with the same job."""
    dali = {"nvidia.dali": "nvidia-dali-cuda130"}
    cached = {"cache": str(Path(job.folder) / "cache")}
    listed: list[tuple[str, Callable[..., Any], dict[str, Any], dict[str, str]]] = [
        (BASE, peers.fastai_datablock, {}, {}), ("fastai RandomResizedCrop", peers.fastai_crop, {}, {}),
        ("torch Pillow", peers.torch_pillow, {}, {}), ("torch torchvision", peers.torch_torchvision, {}, {}),
        ("timm", peers.timm_loader, {}, {}), ("WebDataset", guests.webdataset, {}, {"webdataset": "webdataset"}),
        ("SPDL", guests.spdl, {}, {"spdl": "spdl"}), (FFCV, guests.ffcv, {}, {"ffcv": "ffcv"}),
        ("raw DALI", ours.raw_dali, {}, dali), ("raw DALI cached", ours.raw_dali, {"cached": True}, dali),
        ("busfast uncached", ours.busfast, {}, {}),
        ("busfast uncached, dali", ours.busfast, {"loader": "dali"}, dali),
        ("busfast uncached, torchvision", ours.busfast, {"loader": "torchvision"}, {}),
        ("busfast cached", ours.busfast, cached, {}),
        ("limit: decoding alone", ours.decoding, {}, {}),
        ("limit: decoding and resizing alone", ours.decoding, {"fit": True}, {}),
    ]
    return [Contender(name, make, {"job": job} | settings, needs) for name, make, settings, needs in listed]


def run(folder: Path, images: Images, size: int, bs: int, rounds: int, threads: int, only: list[str]) -> Report:
    """Measures the loaders.

    Args:
        folder: to write to; the caller removes it.
        images: what is loaded.
        size: side of the training images, pixels.
        bs: images a batch.
        rounds: counted rounds.
        threads: threads or worker processes each has.
        only: words of contenders' names; empty: all.
    """
    job = Job(images, size, bs, threads, str(folder))
    outcomes = compete(pick(contenders(job), only), rounds)
    chosen = next((one.facts["loader"] for one in outcomes if one.name == "busfast uncached" and one.values), None)
    notes = [
        f"Images: {images.said}. Small images flatter the peers, huge ones flatter the cache.",
        f"Each in a process of its own, {threads} threads or worker processes, batches of {bs}; {rounds} rounds in "
        "turn after one that is not counted; img_per_s is the median, img_per_s_iqr the spread of its middle half.",
        "apart: mean distance to the reference pixels, of 255, where the pipeline is the same (squash, flip, "
        "rotation by up to 15 degrees, normalising); empty: its own crops, only shape, type and range are checked.",
        "memory_mb: the most that the process was resident in, and what its workers held for themselves.",
        "busfast: freed memory is kept, as in training (busfast.models.fast_step, keep_memory); every image once an "
        "epoch was checked"
        + (f"; its uncached loader here is {chosen}." if chosen else "."),
    ]
    return Report(f"Loading for training, {size} px", tabulate(outcomes, BASE, ["apart"]),
                  ("img_per_s", "images a second"), TARGETS, notes, reasons(outcomes))
