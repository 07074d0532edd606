"""python -m busfast bench WHAT: how fast busfast is on this machine, against its peers and the machine's limit."""

import shlex
import tempfile
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from busfast.errors import UserError, check_range, choose
from busfast.files import make_folder
from busfast.pipelines.config import DEVICES
from busfast.timm_names import refuse_unknown_model

ARCH = "efficientnet_b0"

# what -> the flags it takes, with their defaults; a module of this package has the same name and a function `run`.
_ALL: dict[str, Any] = {"size": 224, "bs": 32, "rounds": 5, "device": "auto", "only": ""}
_FILES: dict[str, Any] = {"data": "", "images": 256, "threads": 2, **_ALL}
WHATS: dict[str, dict[str, Any]] = {
    "loaders": _FILES,
    "step": {"arch": ARCH, **_ALL},
    "epoch": {**_FILES, "arch": ARCH, "rounds": 3},
    "fastai": {**_FILES, "images": 1024, "bs": 64, "rounds": 3},
    "predict": {**_FILES, "arch": ARCH},
}
STUDIES = ("options", "quality", "size", "stores")  # scripts in benchmarks/, which were part of `bench` in version 0.1
RANGES = {"images": (2, 10_000_000), "rounds": (1, 1000), "size": (32, 2048), "bs": (2, 65_536), "threads": (0, 1024),
          "jobs": (1, 1024)}


def bench(what: str, *, data: str = None, images: int = None, arch: str = None, size: int = None, bs: int = None,
          rounds: int = None, threads: int = None, device: str = None, only: str = None,
          out: str = "results/bench") -> None:
    """Measures busfast against its peers on this machine; writes a table, a page and a chart to results/bench/.

    Each contender runs in its own process, in turn with the others, and must deliver the same pixels or
    probabilities. Packages that are not installed are named and skipped (pip install -e ".[bench]").

    Args:
        what: loaders (training batches), step (training steps on one batch in memory, part by part), epoch (a training
            epoch), fastai (fastai's own code, plain and accelerated) or predict (a folder of images).
        data: folder with table.csv and the images. Default: generated gray JPEGs of 1000x1400 px; for fastai, color
            JPEGs of 500x375 px.
        images: largest number of images. Default 256 (fastai 1024, of which 256 for epochs).
        arch: any timm model. Default efficientnet_b0.
        size: side of the model's input, pixels. Default 224.
        bs: images per batch. Default 32 (fastai 64).
        rounds: measurements of each contender. Default 5 (epoch, fastai 3).
        threads: decoding threads of busfast, worker processes of its peers. Default 2.
        device: auto, cuda or cpu, of busfast and its peers; default: auto. Not yet tried on a GPU.
        only: measure only contenders whose name contains one of these words, separated by commas.
        out: folder for WHAT.csv, WHAT.md and WHAT.png; those of an earlier bench are replaced.

    Raises:
        UserError: wrong input.
    """
    given = {key: value for key, value in locals().items() if key not in ("what", "out") and value is not None}
    if what in STUDIES:
        raise UserError(f"bench {what} is now a script: run python benchmarks/{what}.py in a clone of busfast "
                        "(--help lists its flags).")
    settings = read_settings(f"bench {what}", WHATS[choose("bench", what, WHATS)], given)
    argv = ["python", "-m", "busfast", "bench", what, *(f"--{key}={value}" for key, value in given.items())]
    make_folder(Path(out))
    module = import_module(f"{__name__}.{what}")
    from busfast.bench.images import PHOTOGRAPHS, RADIOGRAPHS, gather
    from busfast.bench.report import publish

    with tempfile.TemporaryDirectory(prefix="busfast-bench-") as folder:
        if what != "step":
            settings["folder"] = Path(folder)
            settings["images"] = gather(settings.pop("data"), settings["images"], Path(folder) / "images",
                                        PHOTOGRAPHS if what == "fastai" else RADIOGRAPHS)
            print(f"images: {settings['images'].description}")
        report = replace(module.run(**settings), device=settings["device"])
    publish(report, Path(out), what, shlex.join(argv))


def read_settings(name: str, defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Returns the checked settings of a bench or study called `name`: `defaults`, with those `given` (numbers or text).
    Raises UserError for an unknown flag, or a value out of its range."""
    from busfast.pipelines.settings import convert

    settings = dict(defaults)
    for key, value in given.items():
        if key not in settings:
            raise UserError(f"{name} has no flag --{key}. Its flags are: "
                            f"{', '.join(f'--{flag}' for flag in settings)}.")
        settings[key] = convert(key, value, int if key in RANGES else str)
        if key in RANGES:
            check_range(key, settings[key], *RANGES[key])
    if "seeds" in settings:
        settings["seeds"] = convert("seeds", settings["seeds"], tuple[int, ...])
        for seed in settings["seeds"]:
            check_range("seeds", seed, 0, 2**32 - 1)
    if "only" in settings:
        settings["only"] = [word.strip() for word in settings["only"].split(",") if word.strip()]
    if "images" in settings and settings["images"] < settings.get("bs", 0):
        raise UserError(f"images={settings['images']} is too few for batches of {settings['bs']}: give "
                        f"{settings['bs']} or more, or a smaller --bs.")
    if settings.get("data"):
        from busfast.data.table import find_table

        find_table(settings["data"])
    if "arch" in settings:
        refuse_unknown_model(settings["arch"])  # before torch is imported
    if "device" in settings:
        choose("device", settings["device"], DEVICES)
        from busfast.pipelines.devices import choose_device

        settings["device"] = choose_device(settings["device"])
    if "arch" in settings:
        from busfast.models.arch import check_arch

        settings["arch"] = check_arch(settings["arch"])
    return settings

