"""The table of runs, as CSV and Markdown, from the files in each run's folder."""

from pathlib import Path

import pandas as pd

from busfast.csvfile import read_frame, write_csv
from busfast.errors import UserError
from busfast.files import atomic
from busfast.results.differences import compare_tests, headline
from busfast.results.run_groups import NOTE as SPREAD
from busfast.results.run_groups import aggregate, find_groups, format_groups, is_scored, read_test_scores
from busfast.text import markdown_table
from busfast.training.runs import RESULTS, Run, all_runs, find_run
from busfast.yamlfile import read_yaml

NOTE = ("Columns that begin with test_ are of the test part (macro AUC with its 95% interval, by "
        "patients), if `evaluate` has scored it; all others are of the validation part. For center_holdout that is "
        "images of the training centers: it does not show the performance on the held-out center.")


def compare_runs(names: str | None = None) -> tuple[pd.DataFrame, list[str], list[Path]]:
    """Compares the runs below results/; writes compare.csv and compare.md there; if two or more were evaluated,
    differences.csv and compare.png; for groups of seeds, folds or centers (see `find_groups`), aggregate.csv.

    Args:
        names: of the runs, separated by commas; None: all.

    Returns:
        The table, a row per run; lines on the gaps to held-out centers and the spread of groups; and the files.

    Raises:
        UserError: there is no run, or none of that name.
    """
    runs = all_runs() if names is None else [find_run(name.strip()) for name in names.split(",")]
    rows = [row for row in map(_row, runs) if row]
    if not rows:
        raise UserError(f"There is no trained run below {RESULTS}/. Train one: python -m busfast train.")
    table = pd.DataFrame(rows)
    csv, markdown = RESULTS / "compare.csv", RESULTS / "compare.md"
    write_csv(table, csv)
    differences = compare_tests(runs)
    gaps, files, groups = headline(differences), [csv, markdown], find_groups(runs)
    spreads = aggregate(groups)
    group_texts = format_groups(groups, spreads)
    with atomic(markdown) as file:
        file.write("".join(f"**{gap}**\n\n" for gap in gaps) + _markdown(table) + f"\n\n{NOTE}\n")
        if len(differences):
            file.write("\n" + _markdown(differences) + "\n\nDifferences are b - a, with 95% intervals; images: whether "
                       "both have the same test images, so that what they share cancels.\n")
        if groups:
            file.write("".join(f"\n```\n{text}\n```\n" for text in group_texts) + f"\n{SPREAD}\n")
    if groups:
        write_csv(spreads, RESULTS / "aggregate.csv", float_format="%.6g")
        files.append(RESULTS / "aggregate.csv")
    if len(differences):
        from busfast.results.plots import draw_tests

        write_csv(differences, RESULTS / "differences.csv", float_format="%.6g")
        draw_tests(table.dropna(subset="test_macro_auc"), RESULTS / "compare.png")
        files += [RESULTS / "differences.csv", RESULTS / "compare.png"]
    return table, gaps + group_texts, files


def print_comparison(table: pd.DataFrame, differences: list[str], files: list[Path]) -> None:
    """Prints what `compare_runs` returns; columns that are the same for all runs take one line, not a column."""
    same = [name for name in ("data", "state", "model", "size", "loader") if table[name].nunique() == 1]
    print("\n" + ", ".join(f"{name}: {table[name].iloc[0]}" for name in same))
    print(table.drop(columns=same).round(3).to_string(index=False))
    for difference in differences:
        print(f"\n{difference}")
    print(f"wrote {', '.join(map(str, files))} (scores are of the validation part unless they begin with test_)")


def _row(run: Run) -> dict | None:
    log_file = run.results / "training_log.csv"
    config = read_yaml(run.results / "config.yaml")
    record = config.get("run") or {}
    summary = run.read_summary()
    members = record.get("members") or []
    if members:  # an ensemble has no epochs: one row with the validation scores of the mean
        log = pd.DataFrame([{"epoch": 0, "val_loss": None, "val_acc": None, "macro_auc": None, "seconds": 0}
                            | (summary.get("valid") or {})])
    elif log_file.is_file():
        log = read_frame(log_file, ("epoch", "val_loss", "val_acc", "macro_auc", "seconds"))
    else:
        return None
    best = log["val_loss"].idxmin() if log["val_loss"].notna().any() else 0
    last = log.iloc[-1]
    row = {"run": run.name, "data": config.get("data", "") + (" (PHANTOM, synthetic)" if record.get("phantom") else "")
           + (" (the split LEAKS)" if record.get("leaks") else ""),
           "state": summary.get("state", "running or killed"),
           "model": f"{config.get('arch')}{f', mean of {len(members)}' if members else ''}", "size": config.get("size"),
           "loader": record.get("loader"), "epochs": 0 if members else len(log), "best_epoch": int(log["epoch"][best]),
           "best_val_loss": log["val_loss"][best], "macro_auc_then": log["macro_auc"][best],
           "final_val_acc": last["val_acc"]}
    row |= {f"final_{name}": last[name] for name in log if name.startswith("recall_")}
    row |= dict.fromkeys(("test_macro_auc", "test_low", "test_high"))
    if is_scored(run):
        auc = read_test_scores(run).loc["macro_auc"]
        row |= {"test_macro_auc": auc["estimate"], "test_low": auc["low"], "test_high": auc["high"]}
    return row | {"minutes": round(log["seconds"].sum() / 60, 2)}


def _markdown(table: pd.DataFrame) -> str:
    return markdown_table(table.columns, [[f"{value:.3f}" if isinstance(value, float) else value for value in row]
                                          for row in table.itertuples(index=False)])
