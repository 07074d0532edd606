"""The table of runs, as CSV and Markdown; every figure comes from the runs' own logs."""

from pathlib import Path

import pandas as pd

from busfast.errors import UserError
from busfast.files import atomic
from busfast.pipelines.config import read_yaml
from busfast.results.runs import RESULTS, Run, all_runs

NOTE = ("Every figure is of the validation part, never of the test part. For center_holdout that is images of the "
        "training centers: it does not show how the model does on the held-out center.")


def compare_runs() -> tuple[pd.DataFrame, Path, Path]:
    """Gathers all runs below results/; writes results/compare.csv and results/compare.md.

    Returns:
        The table, a row a run, and the two files.

    Raises:
        UserError: there is no run yet.
    """
    rows = [row for row in map(_row, all_runs()) if row]
    if not rows:
        raise UserError(f"There is no trained run below {RESULTS}/ yet. Train one: python -m busfast train.")
    table = pd.DataFrame(rows)
    csv, markdown = RESULTS / "compare.csv", RESULTS / "compare.md"
    with atomic(csv) as file:
        table.to_csv(file, index=False)
    with atomic(markdown) as file:
        file.write(_markdown(table) + f"\n{NOTE}\n")
    return table, csv, markdown


def _row(run: Run) -> dict | None:
    log_file = run.results / "training_log.csv"
    if not log_file.is_file():
        return None
    log = pd.read_csv(log_file)
    config = read_yaml(run.results / "config.yaml")
    record = config.get("run") or {}
    summary_file = run.results / "summary.yaml"
    summary = read_yaml(summary_file) if summary_file.is_file() else {}
    best = log["val_loss"].idxmin() if log["val_loss"].notna().any() else 0
    last = log.iloc[-1]
    row = {"run": run.name, "data": config.get("data", "") + (" (PHANTOM, synthetic)" if record.get("phantom") else "")
           + (" (the split LEAKS)" if record.get("leaks") else ""),
           "state": summary.get("state", "running or killed"), "model": config.get("arch"), "size": config.get("size"),
           "loader": record.get("loader"), "epochs": len(log), "best_epoch": int(log["epoch"][best]),
           "best_val_loss": log["val_loss"][best], "macro_auc_then": log["macro_auc"][best],
           "final_val_acc": last["val_acc"]}
    row |= {f"final_{name}": last[name] for name in log if name.startswith("recall_")}
    return row | {"minutes": round(log["seconds"].sum() / 60, 2)}


def _markdown(table: pd.DataFrame) -> str:
    """A Markdown table (pandas' own needs one more package)."""
    def cell(value) -> str:
        text = f"{value:.3f}" if isinstance(value, float) else str(value)
        return text.replace("|", "\\|")
    lines = [list(table.columns), ["---"] * len(table.columns), *([cell(v) for v in row] for row in
                                                                 table.itertuples(index=False))]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
