"""bench quality: how good the default recipe and `--preset=fast` get, and in what time, over several seeds."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd

from busfast.bench.report import Report, Target
from busfast.errors import UserError
from busfast.progress import progress
from busfast.yamlfile import read_yaml

RECIPES = {"busfast --preset=fast": ["--preset=fast"], "default, 5 epochs": ["--epochs=5"]}
BASE = "default, 5 epochs"
TARGETS = (Target("busfast --preset=fast", BASE, 0.5, at_most=True, column="seconds"),
           Target("busfast --preset=fast", BASE, 1, column="macro_auc"))


def train(data: str, seed: int, words: list[str], folder: Path) -> dict:
    """Trains a split in a process and folder of its own.

    Args:
        data: the data folder.
        seed: of split, weights, order and augmentation.
        words: further words of the command.
        folder: is made; holds the run.

    Returns:
        macro_auc (validation, at the best epoch by the run's monitor), best_epoch, seconds (training and validation,
        summed over the log; reading and caching images before is not in it).

    Raises:
        UserError: the training failed; with its last line.
    """
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "busfast", "train", f"--data={os.path.abspath(data)}", "--split=stratified",
               f"--seed={seed}", "--device=cpu", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or [f"it ended with {done.returncode}"]
        raise UserError(f"{' '.join(command[2:])} failed: {last[0]}")
    results = next(folder.glob("results/*/*/summary.yaml")).parent
    log, best = pd.read_csv(results / "training_log.csv"), read_yaml(results / "summary.yaml")["best_epoch"]
    row = log[log["epoch"] == best].iloc[0]
    return {"macro_auc": float(row["macro_auc"]), "best_epoch": int(best), "seconds": float(log["seconds"].sum())}


def summarise(runs: pd.DataFrame) -> pd.DataFrame:
    """Makes a row a recipe of runs (name, seed, macro_auc, seconds): means, and standard deviations as `_sd`."""
    rows = []
    for name, of in runs.groupby("name", sort=False):
        rows.append({"name": name, "seeds": len(of)} | {
            key: value for column in ("macro_auc", "seconds")
            for key, value in ((column, of[column].mean()), (f"{column}_sd", of[column].std(ddof=1)))})
    return pd.DataFrame(rows)


def run(folder: Path, data: str, seeds: list[int]) -> Report:
    """Trains every recipe with every seed, seed by seed.

    Args:
        folder: to write to; the caller removes it.
        data: the data folder.
        seeds: of the runs.
    """
    jobs = [(seed, name) for seed in seeds for name in RECIPES]
    runs = []
    for seed, name in progress(jobs, "training"):
        found = train(data, seed, RECIPES[name], folder / str(len(runs)))
        runs.append({"name": name, "seed": seed} | found)
        print(f"  {name}, seed {seed}: macro AUC {found['macro_auc']:.3f} (epoch {found['best_epoch']}), "
              f"{found['seconds']:.0f} s", flush=True)
    runs = pd.DataFrame(runs)
    spent = runs.pivot(index="seed", columns="name", values="seconds")
    ratios = ", ".join(f"{value:.2f}" for value in spent["busfast --preset=fast"] / spent[BASE])
    each = "; ".join(f"{name}, seed {seed}: {auc:.3f} at epoch {epoch}, {seconds:.0f} s" for name, seed, auc, epoch,
                     seconds in runs.itertuples(index=False))
    notes = [
        f"busfast train --data={data} --split=stratified --seed=S with "
        + " and with ".join(" ".join(words) for words in RECIPES.values())
        + f", S = {', '.join(map(str, seeds))}, seed by seed, each in a process of its own.",
        "macro_auc: validation part, at the best epoch by the run's own monitor; seconds: training and validation, "
        "summed over the epochs of the log; _sd: standard deviation over the seeds. The test part is not scored.",
        f"Seconds with --preset=fast over the default's, seed by seed: {ratios}.",
        f"Macro AUC and seconds of each run: {each}.",
    ]
    return Report("Validation macro AUC and training time", summarise(runs), ("seconds", "seconds of training"),
                  TARGETS, notes)
