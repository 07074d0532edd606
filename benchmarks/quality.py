"""How good the published recipe in stock fastai, the default recipe and `--preset=fast` get, and how long they take.

Makes the table "Time to quality" of docs/performance.md; each training runs in its own process, folder and cache.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from common import run_study

from busfast.bench.report import Report, Target
from busfast.errors import UserError
from busfast.progress import progress
from busfast.yamlfile import read_yaml

DEFAULTS = {"data": None, "seeds": "42,43,44", "only": ""}
FAST, BASE, STOCK = "busfast --preset=fast", "busfast, 5 epochs", "stock fastai, 5 epochs"
BUSFAST = ["-m", "busfast", "train", "--split=stratified", "--device=cpu"]
RECIPES = {FAST: [*BUSFAST, "--preset=fast"], BASE: [*BUSFAST, "--epochs=5"],
           STOCK: [str(Path(__file__).with_name("stock_fastai.py")), "--out=."]}
TARGETS = (Target(FAST, STOCK, 1 / 8, at_most=True, column="total"), Target(FAST, STOCK, 1, column="macro_auc"),
           Target(FAST, BASE, 0.5, at_most=True, column="seconds"), Target(FAST, BASE, 1, column="macro_auc"))


def train(data: str, seed: int, command: list[str], folder: Path) -> dict:
    """Trains a split in its own process and folder, with an empty cache.

    Args:
        data: the data folder.
        seed: of split, weights, order and augmentation.
        command: of `RECIPES`.
        folder: is created; holds the run.

    Returns:
        macro_auc (validation, at the best epoch by the run's monitor), best_epoch, seconds (training and validation,
        summed over the log) and total (of the whole process: imports, decoding and caching included).

    Raises:
        UserError: the training failed; with its last line.
    """
    folder.mkdir(parents=True)
    command = [sys.executable, *command, f"--data={os.path.abspath(data)}", f"--seed={seed}"]
    began, environment = time.monotonic(), os.environ | {"BUSFAST_CACHE": str(folder / "cache")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    total = time.monotonic() - began
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise UserError(f"{' '.join(command[1:])} failed: {last[0]}")
    results = next(folder.rglob("summary.yaml")).parent
    log, best = pd.read_csv(results / "training_log.csv"), read_yaml(results / "summary.yaml")["best_epoch"]
    row = log[log["epoch"] == best].iloc[0]
    return {"macro_auc": float(row["macro_auc"]), "best_epoch": int(best), "seconds": float(log["seconds"].sum()),
            "total": total}


def summarize(runs: pd.DataFrame) -> pd.DataFrame:
    """Makes one row per recipe of runs (name, seed, macro_auc, seconds, total): means, and standard deviations as
    `_sd`."""
    return runs.groupby("name", sort=False).agg(
        seeds=("seed", "size"), macro_auc=("macro_auc", "mean"), macro_auc_sd=("macro_auc", "std"),
        seconds=("seconds", "mean"), seconds_sd=("seconds", "std"),
        total=("total", "mean")).reset_index()


def run(folder: Path, data: str, seeds: Sequence[int], only: Sequence[str] = ()) -> Report:
    """Trains every recipe with every seed, seed by seed.

    Args:
        folder: to write to; the caller removes it.
        data: the data folder.
        seeds: of the trainings.
        only: train the recipes whose name contains one of these words; none: all.
    """
    rows = []
    names = [name for name in RECIPES if not only or any(word in name for word in only)]
    for seed, name in progress([(seed, name) for seed in seeds for name in names], "training"):
        scores = train(data, seed, RECIPES[name], folder / str(len(rows)))
        rows.append({"name": name, "seed": seed} | scores)
        print(f"  {name}, seed {seed}: macro AUC {scores['macro_auc']:.3f} (epoch {scores['best_epoch']}), "
              f"{scores['seconds']:.0f} s, {scores['total']:.0f} s in all", flush=True)
    runs = pd.DataFrame(rows)
    each = "; ".join(f"{row.name}, seed {row.seed}: {row.macro_auc:.3f} at epoch {row.best_epoch}, "
                     f"{row.seconds:.0f} s, {row.total:.0f} s in all" for row in runs.itertuples(index=False))
    notes = [
        f"Each in its own process, with an empty cache, --data={data}, --seed=S, S = {', '.join(map(str, seeds))}: "
        + "; ".join(f"{name}: python {' '.join(RECIPES[name]).replace(str(Path(__file__).parent), 'benchmarks')}"
                    for name in names) + ".",
        "macro_auc: validation part, at the best epoch by the run's own monitor; seconds: training and validation, "
        "summed over the epochs of the log; total: of the whole process; _sd: standard deviation over the seeds. The "
        "test part is not scored.",
        f"Macro AUC and seconds of each run: {each}.",
    ]
    return Report("Validation macro AUC and training time", summarize(runs), ("seconds", "seconds of training"),
                  TARGETS, notes)


if __name__ == "__main__":
    run_study("quality", __doc__, DEFAULTS, run)
