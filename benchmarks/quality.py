"""How good the default recipe and `--preset=fast` get, and how long they train, over several seeds.

Makes the table "Time to quality" of docs/performance.md; each training runs in its own process and folder.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from common import run_study

from busfast.bench.report import Report, Target
from busfast.errors import UserError
from busfast.progress import progress
from busfast.yamlfile import read_yaml

DEFAULTS = {"data": None, "seeds": "42,43,44"}
FAST, BASE = "busfast --preset=fast", "default, 5 epochs"
RECIPES = {FAST: ["--preset=fast"], BASE: ["--epochs=5"]}
TARGETS = (Target(FAST, BASE, 0.5, at_most=True, column="seconds"), Target(FAST, BASE, 1, column="macro_auc"))


def train(data: str, seed: int, flags: list[str], folder: Path) -> dict:
    """Trains a split in its own process and folder.

    Args:
        data: the data folder.
        seed: of split, weights, order and augmentation.
        flags: further flags of `busfast train`.
        folder: is created; holds the run.

    Returns:
        macro_auc (validation, at the best epoch by the run's monitor), best_epoch, seconds (training and validation,
        summed over the log, without reading and caching the images).

    Raises:
        UserError: the training failed; with its last line.
    """
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "busfast", "train", f"--data={os.path.abspath(data)}", "--split=stratified",
               f"--seed={seed}", "--device=cpu", *flags]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise UserError(f"{' '.join(command[2:])} failed: {last[0]}")
    results = next(folder.glob("results/*/*/summary.yaml")).parent
    log, best = pd.read_csv(results / "training_log.csv"), read_yaml(results / "summary.yaml")["best_epoch"]
    row = log[log["epoch"] == best].iloc[0]
    return {"macro_auc": float(row["macro_auc"]), "best_epoch": int(best), "seconds": float(log["seconds"].sum())}


def summarize(runs: pd.DataFrame) -> pd.DataFrame:
    """Makes one row per recipe of runs (name, seed, macro_auc, seconds): means, and standard deviations as `_sd`."""
    return runs.groupby("name", sort=False).agg(
        seeds=("seed", "size"), macro_auc=("macro_auc", "mean"), macro_auc_sd=("macro_auc", "std"),
        seconds=("seconds", "mean"), seconds_sd=("seconds", "std")).reset_index()


def run(folder: Path, data: str, seeds: Sequence[int]) -> Report:
    """Trains every recipe with every seed, seed by seed.

    Args:
        folder: to write to; the caller removes it.
        data: the data folder.
        seeds: of the trainings.
    """
    rows = []
    for seed, name in progress([(seed, name) for seed in seeds for name in RECIPES], "training"):
        scores = train(data, seed, RECIPES[name], folder / str(len(rows)))
        rows.append({"name": name, "seed": seed} | scores)
        print(f"  {name}, seed {seed}: macro AUC {scores['macro_auc']:.3f} (epoch {scores['best_epoch']}), "
              f"{scores['seconds']:.0f} s", flush=True)
    runs = pd.DataFrame(rows)
    seconds = runs.pivot(index="seed", columns="name", values="seconds")
    ratios = ", ".join(f"{ratio:.2f}" for ratio in seconds[FAST] / seconds[BASE])
    each = "; ".join(f"{row.name}, seed {row.seed}: {row.macro_auc:.3f} at epoch {row.best_epoch}, {row.seconds:.0f} s"
                     for row in runs.itertuples(index=False))
    notes = [
        f"busfast train --data={data} --split=stratified --seed=S with "
        + " and with ".join(" ".join(flags) for flags in RECIPES.values())
        + f", S = {', '.join(map(str, seeds))}, seed by seed, each in its own process.",
        "macro_auc: validation part, at the best epoch by the run's own monitor; seconds: training and validation, "
        "summed over the epochs of the log; _sd: standard deviation over the seeds. The test part is not scored.",
        f"Seconds with --preset=fast over the default's, seed by seed: {ratios}.",
        f"Macro AUC and seconds of each run: {each}.",
    ]
    return Report("Validation macro AUC and training time", summarize(runs), ("seconds", "seconds of training"),
                  TARGETS, notes)


if __name__ == "__main__":
    run_study("quality", __doc__, DEFAULTS, run)
