"""The table of runs, as CSV and Markdown, from the files in each run's folder."""

import shutil
from dataclasses import fields
from pathlib import Path

import pandas as pd

from busfast.csvfile import read_frame, write_csv
from busfast.errors import UserError
from busfast.files import atomic
from busfast.pipelines.config import Config
from busfast.pipelines.settings import format_value
from busfast.pipelines.splits import seed_of_split
from busfast.results.differences import NOT_RECIPE, compare_tests, headline, pairs_of, recipe_of
from busfast.results.evaluation import choose_positive
from busfast.results.run_groups import NOTE as SPREAD
from busfast.results.run_groups import (
    aggregate,
    find_groups,
    format_groups,
    is_scored,
    leave_out_members,
    read_test_scores,
)
from busfast.text import counted, cut_middle, listed, markdown_table
from busfast.training.runs import DONE, RESULTS, Run, all_runs, find_run
from busfast.yamlfile import read_yaml

WIDTH = 100  # characters of the table on the screen, at most
SHARED = ("data", "model", "size", "loader")  # columns that the screen has above its table, if all runs have the same
# Columns of settings, where they differ: those that no other column tells.
SETTINGS = [item.name for item in fields(Config) if item.name not in (*NOT_RECIPE, "arch", "size", "loader", "epochs")]
FEW = 3  # runs that have a value in common are named; more are counted
NOTE = ("Sorted by the macro AUC of the validation part. Columns that begin with test_ or sensitivity_ are of the test "
        "part (95% intervals, by patients), if `evaluate` has scored it; the sensitivity is for the positive class, "
        "where each image is assigned its most probable class. All other scores are of the validation part at the "
        "best epoch. For center_holdout that is images of the training centers: it does not show the performance on "
        "the held-out center.")


def compare_runs(names: str | None = None, every: bool = False) -> tuple[pd.DataFrame, list[str], list[Path]]:
    """Compares runs below results/; writes compare.csv and compare.md there; if two or more were evaluated,
    differences.csv and compare.png; for groups of seeds, folds or centers (see `find_groups`), aggregate.csv.

    Args:
        names: of the runs, separated by commas; None: those of the pipeline whose run was started last.
        every: instead, the runs of all pipelines.

    Returns:
        The table, a row per run, the best one (by macro AUC on validation) first; texts on the gaps to held-out
        centers, the paired differences and the spread of groups; and the files.

    Raises:
        UserError: there is no run, or none of that name.
    """
    if names is not None:
        runs = [find_run(name.strip()) for name in names.split(",")]
    else:
        runs = all_runs() if every else _of_last_pipeline(all_runs())
    rows = [row for row in map(_row, runs) if row]
    if not rows:
        raise UserError(f"There is no trained run below {RESULTS}/. Train one: python -m busfast train")
    table = pd.DataFrame(rows).sort_values("macro_auc", ascending=False, kind="stable", ignore_index=True)
    table = table.drop(columns=[name for name in SETTINGS if table[name].nunique() < 2])
    csv, markdown = RESULTS / "compare.csv", RESULTS / "compare.md"
    write_csv(table, csv)
    differences = compare_tests(runs)
    gaps, files, groups = headline(differences), [csv, markdown], find_groups(runs)
    spreads = aggregate(groups)
    shown = leave_out_members(groups)
    group_texts = format_groups(shown, spreads)
    if len(shown) < len(groups):
        group_texts.append(f"{counted(len(groups) - len(shown), 'group')} of their members: {RESULTS}/aggregate.csv")
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
    ensembles_first = table.assign(single=table["best_epoch"] > 0).sort_values("single", kind="stable")["run"]
    return table, [*gaps, *pairs_of(differences, list(ensembles_first)), *group_texts], files


def _of_last_pipeline(runs: list[Run]) -> list[Run]:
    """Returns the runs of the pipeline whose run was started last, and says how many others there are."""
    if not runs:
        return []
    last = max(runs, key=lambda run: (run.results / "config.yaml").stat().st_mtime_ns).name.split("/")[0]
    own = [run for run in runs if run.name.split("/")[0] == last]
    if len(own) < len(runs):
        print(f"compare: {counted(len(own), 'run')} of {last}, the pipeline that was trained last; of all pipelines "
              f"({len(runs)} runs): python -m busfast compare --all")
    return own


def print_comparison(table: pd.DataFrame, differences: list[str], files: list[Path]) -> None:
    """Prints what `compare_runs` returns: six columns, and above them what all runs share or are warned of."""
    same = [name for name in SHARED if table[name].nunique() == 1]
    print("\n" + ", ".join(f"{name}: {table[name].iloc[0]}" for name in same))
    for name in (*SHARED, "positive", *SETTINGS):
        if name in table and name not in same and (values := _values(table, name)):
            print(f"{name}: {values}")
    for words, marked in (("PHANTOM (synthetic):", table["data"].str.contains("PHANTOM") & ("data" not in same)),
                          ("the split LEAKS:", table["data"].str.contains("LEAKS") & ("data" not in same)),
                          ("not finished:", ~table["state"].isin(DONE))):
        if marked.any():
            print(f"{words} {', '.join(table['run'][marked])}")
    print("\n".join(format_rows(table)))
    positive = {*table["positive"]} - {""}
    print("AUC: macro AUC, of validation at the best epoch (best) and of the test part; sens.: sensitivity"
          + (f" for {positive.pop()}" if len(positive) == 1 else "") + ", test part"
          + ("; -: evaluate has not scored it" if table["test_macro_auc"].isna().any() else ""))
    for difference in differences:
        print(f"\n{difference}")
    print(f"wrote {', '.join(map(str, files))}")


def format_rows(table: pd.DataFrame) -> list[str]:
    """Returns the runs of a table as lines that fit the terminal, of at most `WIDTH` characters; what is not known is a
    dash. The pipeline stands above the names, if it is that of all."""
    pipelines = {name.split("/")[0] for name in table["run"]}
    head = f"run of {pipelines.pop()}" if len(pipelines) == 1 else "run"
    rows = [[head, "epochs", "best", "val AUC", "test AUC (95%)", "sens."]]
    for row in table.itertuples():
        interval = "" if pd.isna(row.test_low) else f" ({row.test_low:.3f} to {row.test_high:.3f})"
        rows.append([row.run if head == "run" else row.run.partition("/")[2], row.epochs or "-", row.best_epoch or "-",
                     _number(row.macro_auc), _number(row.test_macro_auc) + interval, _number(row.test_sensitivity)])
    rows = [list(map(str, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    room = min(shutil.get_terminal_size().columns, WIDTH) - sum(widths[1:]) - 2 * len(widths[1:])
    widths[0] = max(12, min(widths[0], room))
    return ["  ".join([cut_middle(row[0], widths[0]).ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
            for row in rows]


def _values(table: pd.DataFrame, name: str) -> str:
    """Returns the values of a column in which runs differ, the most frequent first; "" if they do not. An empty one is
    told elsewhere, as a seed is by the run's name."""
    known = table[table[name].astype(str) != ""]
    if known[name].nunique() < 2:
        return ""
    one_pipeline = known["run"].str.partition("/")[0].nunique() == 1
    names = known["run"].str.partition("/")[2] if one_pipeline else known["run"]
    runs_by_value = {value: list(names[known[name] == value]) for value in known[name].value_counts().index}
    return "; ".join(f"{value} ({listed(runs) if len(runs) <= FEW else counted(len(runs), 'run')})"
                     for value, runs in runs_by_value.items())


def _number(value: float | None) -> str:
    return "-" if pd.isna(value) else f"{value:.3f}"


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
    chosen = log.index[log["epoch"] == summary.get("best_epoch")]
    best = chosen[0] if len(chosen) else log["val_loss"].idxmin() if log["val_loss"].notna().any() else 0
    row = {"run": run.name, "data": config.get("data", "") + (" (PHANTOM, synthetic)" if record.get("phantom") else "")
           + (" (the split LEAKS)" if record.get("leaks") else ""),
           "state": summary.get("state", "running or killed"),
           "model": f"{config.get('arch')}{f', mean of {len(members)}' if members else ''}", "size": config.get("size"),
           "loader": record.get("loader"), "epochs": 0 if members else len(log), "best_epoch": int(log["epoch"][best]),
           **{name: log[name][best] for name in log if name in ("val_loss", "val_acc", "macro_auc")
              or name.startswith("recall_")},
           **dict.fromkeys(("test_macro_auc", "test_low", "test_high")), "positive": "",
           **dict.fromkeys(("test_sensitivity", "sensitivity_low", "sensitivity_high"))}
    if is_scored(run):
        scores = read_test_scores(run)
        row |= dict(zip(("test_macro_auc", "test_low", "test_high"), scores.loc["macro_auc"], strict=True))
        row["positive"] = choose_positive(run, run.read_config()[0])
        if (name := f"sensitivity_{row['positive']}") in scores.index:
            row |= dict(zip(("test_sensitivity", "sensitivity_low", "sensitivity_high"), scores.loc[name], strict=True))
    return row | {"minutes": round(log["seconds"].sum() / 60, 2)} | _settings(run, bool(members))


def _settings(run: Run, ensemble: bool) -> dict[str, str]:
    """Returns the settings of a run as text; "" for a seed that its name or its members tell."""
    config = run.read_config()[0]
    recipe = recipe_of(config)
    texts = {name: format_value(recipe[name]) for name in SETTINGS} | {"split_seed": str(seed_of_split(config))}
    return texts | ({"seed": ""} if ensemble or f"-seed{config.seed}" in run.name else {})


def _markdown(table: pd.DataFrame) -> str:
    return markdown_table(table.columns, [["" if pd.isna(value) else f"{value:.3f}" if isinstance(value, float) else
                                           value for value in row] for row in table.itertuples(index=False)])
