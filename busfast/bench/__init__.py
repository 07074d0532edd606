"""python -m busfast bench WHAT: how fast busfast is here, against its peers and against the limit of the machine."""

import shlex
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

from busfast.errors import UserError, choose
from busfast.files import make_folder

ARCH = "efficientnet_b0"

# what -> the flags it takes, with their defaults; a module of this package has the same name and a function `run`.
WHATS: dict[str, dict[str, Any]] = {
    "loaders": {"data": None, "images": 256, "size": 224, "bs": 32, "rounds": 5, "threads": 2, "only": ""},
    "step": {"arch": ARCH, "size": 224, "bs": 32, "rounds": 5, "only": ""},
    "epoch": {"data": None, "images": 256, "arch": ARCH, "size": 224, "bs": 32, "rounds": 3, "threads": 2, "only": ""},
    "predict": {"data": None, "images": 256, "arch": ARCH, "size": 224, "bs": 32, "rounds": 5, "threads": 2,
                "only": ""},
    "size": {"images": 100_000, "arch": ARCH, "size": 128, "bs": 32, "rounds": 3, "threads": 2},
    "stores": {"images": 2000, "size": 224, "bs": 32, "rounds": 5, "only": ""},
    "quality": {"data": None, "seeds": "42,43,44"},
    "options": {"data": None, "seeds": "42,43,44", "size": 128, "only": ""},
}
RANGES = {"images": (2, 10_000_000), "rounds": (1, 1000), "size": (32, 2048), "bs": (2, 65_536), "threads": (0, 1024)}


def bench(what: str, *, data: str = None, images: int = None, arch: str = None, size: int = None, bs: int = None,
          rounds: int = None, threads: int = None, seeds: str = None, only: str = None,
          out: str = "results/bench") -> None:
    """Measures busfast against its peers on this machine's CPU; writes a table, a page and a chart to results/bench/.

    Every contender runs in a process of its own, in turn with the others, and must deliver the same thing. Those
    that are not installed are named and left out (pip install -e ".[bench]").

    Args:
        what: loaders (making training batches), step (training steps on one batch in memory, part by part), epoch (a
            training epoch), predict (a folder of images), size (1,000 to 100,000 cached images; takes 4 GB of disk),
            stores (libraries to keep pixels with), quality (the default recipe and --preset=fast) or options (what one
            more option adds to --preset=fast); the last two need --data.
        data: folder with table.csv and the images. Default, 256 gray JPEGs of 1000x1400 px that it makes itself.
        images: how many images at most. Default 256 (size 100,000, stores 2,000).
        arch: any timm model. Default efficientnet_b0.
        size: side of the model's input, pixels. Default 224 (size and options 128).
        bs: images a batch. Default 32.
        rounds: how often each is measured. Default 5 (epoch and size 3).
        threads: decoding threads of busfast, worker processes of its peers. Default 2.
        seeds: of quality and options, separated by commas. Default 42,43,44.
        only: measure those alone whose name holds one of these words, separated by commas.
        out: folder to write WHAT.csv, WHAT.md and WHAT.png to; those of an earlier bench are replaced.

    Raises:
        UserError: wrong input.
    """
    given = {key: value for key, value in locals().items() if key not in ("what", "out") and value is not None}
    choose("bench", what, WHATS)
    settings = check_settings(what, given)
    words = ["python", "-m", "busfast", "bench", what, *(f"--{key}={value}" for key, value in given.items())]
    out = Path(out)
    make_folder(out)
    module = import_module(f"{__name__}.{what}")
    from busfast.bench.own_images import gather
    from busfast.bench.report import publish

    with tempfile.TemporaryDirectory(prefix="busfast-bench-") as folder:
        folder = Path(folder)
        if what in ("loaders", "epoch", "predict"):
            settings["images"] = gather(settings.pop("data"), settings["images"], folder / "images")
            print(f"images: {settings['images'].said}", flush=True)
        if what != "step":
            settings["folder"] = folder
        report = module.run(**settings)
    publish(report, out, what, shlex.join(words))


def check_settings(what: str, given: dict) -> dict:
    """Returns the settings of a bench: its defaults, and over them what was given, checked.

    Raises:
        UserError: a flag that it does not take, or a value that it cannot take.
    """
    settings = dict(WHATS[what])
    for key, value in given.items():
        if key not in settings:
            raise UserError(f"--{key}={value} has no meaning for bench {what}, which takes "
                            f"{', '.join(f'--{name}' for name in settings)}.")
        settings[key] = _whole(key, value, *RANGES[key]) if key in RANGES else str(value)
    if "seeds" in settings:
        settings["seeds"] = [_whole("seeds", seed, 0, 2**32 - 1) for seed in str(settings["seeds"]).split(",")]
    if "only" in settings:
        settings["only"] = [word.strip() for word in str(settings["only"]).split(",") if word.strip()]
    fewest = settings.get("bs", 0) * (100 if what == "size" else 1)  # size measures a hundredth of the images, too
    if settings.get("images", fewest) < fewest:
        raise UserError(f"images={settings['images']} is too few for batches of {settings['bs']}: give {fewest} or "
                        "more, or a smaller --bs.")
    if what in ("quality", "options") and settings["data"] is None:
        raise UserError(f"bench {what} needs images that something can be learned from: --data=FOLDER.")
    if settings.get("data"):
        from busfast.data.table import find_table

        find_table(settings["data"])
    if "arch" in settings:
        from busfast.models.weights import check_arch

        check_arch(settings["arch"])
    return settings


def _whole(name: str, value, low: int, high: int) -> int:
    try:
        number = int(str(value))
    except ValueError:
        raise UserError(f"{name}={value} is not a whole number.") from None
    if not low <= number <= high:
        raise UserError(f"{name}={value} is out of range: give a number from {low} to {high}.")
    return number
