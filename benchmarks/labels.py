"""How many labels that were made wrong on purpose the audit of labels finds, and how many that it lists are wrong.

Makes the table "Labels that are probably wrong" of docs/data.md.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from common import run_study

from busfast.bench.report import Report
from busfast.data.phantom import write_phantom
from busfast.errors import UserError
from busfast.progress import progress

DEFAULTS = {"images": 600, "size": 64, "seeds": "42,43"}
SHARE = 0.05  # of labels that are made wrong
PIPELINE = "data: data/phantom\nfolds: 4\nepochs: 4\nbs: 16\nlr: 0.0006\n"
LISTED, MODEL = "busfast audit --labels", "the models predict another label"
FIRST = "the least likely, as many as are wrong"


def flip(table: Path, seed: int) -> set[str]:
    """Gives `SHARE` of the images of a table another label; returns which."""
    rows, rng = pd.read_csv(table, dtype=str, keep_default_na=False), np.random.default_rng(seed)
    flipped = rng.choice(len(rows), round(SHARE * len(rows)), replace=False)
    classes = sorted(set(rows["label"]))
    for row in flipped:
        rows.loc[row, "label"] = rng.choice([name for name in classes if name != rows["label"][row]])
    rows.to_csv(table, index=False)
    return set(rows["image"][flipped])


def audit(place: Path, size: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Audits the labels of data/phantom in a folder; returns labels.csv, and the predictions of each image."""
    (place / "pipelines").mkdir()
    (place / "pipelines" / "phantom.yaml").write_text(f"{PIPELINE}size: {size}\nseed: {seed}\n")
    done = subprocess.run([sys.executable, "-m", "busfast", "audit", "--labels", "--data=data/phantom"], cwd=place,
                          env=os.environ | {"BUSFAST_CACHE": "off"}, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"audit --labels failed: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
    files = (place / "results" / "phantom").glob("kfold-*/predictions.csv")
    return (pd.read_csv(place / "data" / "phantom" / "audit" / "labels.csv"),
            pd.concat(map(pd.read_csv, files)).query("part == 'test'"))


def count(flipped: set[str], listed: pd.DataFrame, predictions: pd.DataFrame) -> dict[str, tuple[int, int]]:
    """Returns the number of listed labels, and of those among them that are wrong, for each way to list them."""
    p_given = [row[f"p_{row['label']}"] for _, row in predictions.iterrows()]
    least = np.argsort(p_given, kind="stable")[:len(flipped)]
    sets = {LISTED: listed["image"], FIRST: predictions["image"].iloc[least],
            MODEL: predictions["image"][predictions["label"] != predictions["predicted"]]}
    return {name: (len(images), len(flipped & set(images))) for name, images in sets.items()}


def run(folder: Path, images: int, size: int, seeds: Sequence[int]) -> Report:
    """Makes labels of a phantom wrong and audits it, for each seed.

    Args:
        folder: to write to; the caller removes it.
        images: of the phantom.
        size: of the model's input.
        seeds: of the choice of labels, the split and the training.
    """
    found, accuracy, total = [], [], 0
    for seed in progress(list(seeds), "seeds"):
        place = folder / str(seed)
        flipped = flip(write_phantom(place / "data" / "phantom", images=images), seed)
        listed, predictions = audit(place, size, seed)
        right = (predictions["label"] == predictions["predicted"])[~predictions["image"].isin(flipped)]
        found.append(count(flipped, listed, predictions))
        accuracy.append(right.mean())
        total += len(flipped)
    rows = [{"name": name, "listed": sum(one[name][0] for one in found), "wrong": sum(one[name][1] for one in found)}
            for name in found[0]]
    table = pd.DataFrame(rows).assign(precision=lambda rows: rows["wrong"] / rows["listed"],
                                      recall=lambda rows: rows["wrong"] / total)
    return Report(f"Labels made wrong, and found: {total} of {images * len(seeds)}", table,
                  ("precision", "share of the listed labels that are wrong"), (), [
        f"A phantom of {images} images for each of the seeds {', '.join(map(str, seeds))}; {SHARE:.0%} of the labels "
        f"are another one at random. Pipeline: {', '.join(PIPELINE.splitlines()[1:])}, size: {size}. The models "
        f"predict {np.mean(accuracy):.1%} of the other labels.",
        "listed, wrong: labels that were listed, and those among them that were made wrong; recall: share of all that "
        "were made wrong."])


if __name__ == "__main__":
    run_study("labels", __doc__, DEFAULTS, run)
