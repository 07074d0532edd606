"""Training on an NVIDIA GPU: images a second at three batch sizes, with the pixels in its memory, from the cache on the
disk, and decoded by DALI, against the ceiling (the bare steps on a batch that is there). Without a GPU it says why.

Makes the table "On a GPU" of docs/performance.md.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from common import run_study

from busfast.bench import ARCH, epoch
from busfast.bench.images import RADIOGRAPHS, gather
from busfast.bench.report import Report, Target
from busfast.pipelines.devices import choose_device, why_no_cuda

DEFAULTS = {"data": "", "images": 1024, "arch": ARCH, "size": 224, "rounds": 3, "threads": 8}
SIZES = (32, 128, 512)  # images a batch
KINDS = {"in its memory": "busfast cached", "from the disk": "busfast cached, on the disk",
         "decoded": "busfast uncached", "ceiling": "ceiling"}


def run(folder: Path, data: str, images: int, arch: str, size: int, rounds: int, threads: int) -> Report:
    """Measures training epochs with every batch size."""
    device = choose_device("cuda")
    found = gather(data, images, folder / "images", RADIOGRAPHS)
    tables, notes, skipped = [], [f"Images: {found.description}. {arch}, {size} px, {threads} threads."], {}
    for bs in SIZES:
        (place := folder / str(bs)).mkdir()
        report = epoch.run(place, found, arch, size, bs, rounds, threads, device, list(KINDS.values()))
        rows = report.rows[report.rows["name"].isin(KINDS.values())].copy()
        names = {name: f"{kind}, {bs}" for kind, name in KINDS.items()}
        rows["ratio"] = rows["img_per_s"] / rows.loc[rows["name"] == "ceiling", "img_per_s"].iloc[0]
        tables.append(rows.assign(name=rows["name"].map(names)))
        skipped |= {names.get(name, name): why for name, why in report.skipped.items()}
    targets = [Target(f"in its memory, {bs}", f"ceiling, {bs}", 0.95) for bs in SIZES]
    return Report(f"Training {arch} on a GPU", pd.concat(tables, ignore_index=True),
                  ("img_per_s", "images a second"), targets, notes, skipped, device=device)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the study, unless there is no GPU."""
    if reason := why_no_cuda():
        print(f"skipped: {reason}")
    else:
        run_study("gpu", __doc__, DEFAULTS, run, argv)


if __name__ == "__main__":
    main(sys.argv[1:])
