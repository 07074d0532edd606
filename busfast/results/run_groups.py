"""Groups of runs (seeds of a split, folds, held-out centers) -> mean, spread and interval of their scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from busfast.csvfile import read_frame
from busfast.data.split_file import read_split
from busfast.errors import UserError, choose, nearest
from busfast.pipelines.config import Config
from busfast.pipelines.settings import format_value
from busfast.pipelines.splits import MOST_SEEDS, name_split, seed_of_split
from busfast.results.differences import recipe_of
from busfast.results.evaluation import choose_positive
from busfast.results.intervals import LEVEL, RANGES
from busfast.results.metrics import assess_rows
from busfast.results.predictions import FILE, read_predictions
from busfast.training.runs import DONE, Run, all_runs, find_run

COLUMNS = ["group", "runs", "part", "score", "mean", "sd", "low", "high", "lowest", "highest", "interval"]
LIMITS = RANGES | {"val_loss": (0.0, np.inf)}  # of scores that are not between 0 and 1
OVER_RUNS, BY_PATIENT = "t over runs", "by patient"
POOLED = "test, pooled"
PART, SCORE = 6, 21  # characters of these columns on the screen
MEANING = {
    "seeds": "The interval covers the mean over other seeds with this split; it does not cover other patients.",
    "folds": "Folds share most of their training images, so the interval may be too narrow.",
    "centers": "The interval covers the mean over other centers, as far as these few represent them."}
NOTE = ("Groups: mean and standard deviation of the runs' scores (validation: at each run's best epoch; test: if "
        f"`evaluate` has scored all of them); the {LEVEL:.0%} interval, mean -/+ t * sd / sqrt(runs), is 9 standard "
        "deviations to either side for 2 runs, 2.5 for 3 runs, 1.2 for 5 runs, cut where a score ends (0 and 1). "
        f"\"{POOLED}\": each image once, by the run that did not see it, with an interval by patient.")


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed, fold or center; or ensembles, each of one fold or center."""

    name: str  # such as "phantom/stratified-seeds", "phantom/kfold-5folds", "phantom/kfold-5folds-ensembles"
    kind: str  # what they differ in, a key of `MEANING`
    runs: tuple[Run, ...]  # the latest of each seed, fold or center
    expected: int  # number of runs of the complete group
    note: str = ""  # how it differs from another group of that name


def find_groups(runs: list[Run]) -> list[Group]:
    """Finds the groups of two or more finished runs.

    Seeds of a split have the same split.csv; folds and centers the same table, split seed and number of folds. All
    other settings are the same, too; runs with another recipe are a group of their own, whose name gets a number. The
    numbers are those among all runs here, so that a group has one name, whichever runs are asked for. Ensembles of
    folds and centers have as many members, of the same seeds.
    """
    pipelines = {run.name.split("/")[0] for run in runs}
    beside = [run for run in all_runs() if run.name.split("/")[0] in pipelines and (run in runs or _is_readable(run))]
    asked = _members_by_key(runs)
    groups: dict[str, list[Group]] = {}
    firsts: dict[str, list[Run]] = {}
    for key, members in _members_by_key(beside).items():
        if len(members) < 2:
            continue
        kind, name = key[:2]
        namesakes = firsts.setdefault(name, [])
        first, number = members[min(members)][1], f"-{len(namesakes) + 1}" if namesakes else ""
        if len(chosen := asked.get(key, {})) > 1:
            group_runs = tuple(chosen[member][1] for member in sorted(chosen))
            note = _format_difference(namesakes[0], group_runs[0], name) if namesakes else ""
            groups.setdefault(name, []).append(Group(f"{name}{number}", kind, group_runs, _count(kind, group_runs[0])
                                                     or len(group_runs), note))
        namesakes.append(first)
    return [group for namesakes in groups.values() for group in namesakes]


def _is_readable(run: Run) -> bool:
    """Returns whether a run's files can be read; one that was not asked for need not be."""
    try:
        run.read_summary(), run.read_config()
    except UserError:
        return False
    return True


def _members_by_key(runs: list[Run]) -> dict[tuple, dict[Any, tuple[int, Run]]]:
    """Returns, by what the runs of a group share, its kind and name first, when the latest run of each seed, fold or
    center was started, and that run."""
    members_by_key: dict[tuple, dict[Any, tuple[int, Run]]] = {}
    for run in runs:
        summary = run.read_summary()
        if summary.get("state") not in DONE:
            continue
        config, record = run.read_config()
        if not (record.get("members") or (run.results / "training_log.csv").is_file()):
            continue
        started = (run.results / "config.yaml").stat().st_mtime_ns
        for kind, base, shared, member in _memberships(config, record, summary):
            start = (record.get("weights") or {}).get("text", "").partition(" (")[0]  # in brackets: why these
            key = (kind, f"{run.name.split('/')[0]}/{base}", *shared, _recipe(config), start)
            members = members_by_key.setdefault(key, {})
            members[member] = max(members.get(member, (0, run)), (started, run), key=lambda pair: pair[0])
    return members_by_key


def find_members(names: str) -> list[Run]:
    """Returns the runs that `ensemble` is asked for, by their names, separated by commas, or as a group.
    UserError: a name is unknown or given twice, a group is incomplete, or there are too few or too many runs."""
    groups = {group.name: group for group in find_groups(all_runs())}
    if group := groups.get(names.strip()):
        runs = list(group.runs)
        if len(runs) < group.expected:
            raise UserError(f"{names} has {len(runs)} of {group.expected} runs. Train the others first (--resume), or "
                            "name the runs, separated by commas.")
    elif "," not in names and nearest(names, [*groups, *(run.name for run in all_runs())]) in groups:
        choose("group of runs", names, groups)
    else:
        runs = [find_run(name.strip()) for name in names.split(",") if name.strip()]
    if twice := [run.name for run in runs if runs.count(run) > 1]:
        raise UserError(f"--runs={names} names {twice[0]} twice. Name each run once.")
    if not 2 <= len(runs) <= MOST_SEEDS:
        raise UserError(f"--runs={names} does not name 2 to {MOST_SEEDS} different runs, separated by commas, or a "
                        f"group of them (groups here: {', '.join(groups) or 'none'}).")
    return runs


def _memberships(config: Config, record: dict, summary: dict):
    """Yields each group that a run may be in: its kind, its name, what the members share, and the run's own key."""
    split, fold = record.get("split", ""), record.get("fold", "")
    members = record.get("members") or []
    if members:
        suffix, seeds = "-ensembles", (len(members), *record.get("seeds", ()))
    else:
        split_sha256 = (summary.get("sha256") or {}).get("split.csv")
        yield "seeds", f"{name_split(split, fold, config)}-seeds", (split_sha256,), config.seed
        suffix, seeds = f"-seed{config.seed}" if config.split_seed >= 0 else "", (config.seed,)
    shared = (record.get("table_sha256"), seed_of_split(config), *seeds)
    if split == "kfold" and fold:  # an ensemble of several folds has none
        yield "folds", f"kfold-{config.folds}folds{suffix}", (*shared, config.folds), fold.zfill(4)
    if split == "leave_one_center_out" and fold:
        yield "centers", f"leave_one_center_out-centers{suffix}", shared, fold


def _count(kind: str, run: Run) -> int:
    """Returns the number of folds or centers; 0 for seeds, of which there may be any number."""
    if kind == "centers":
        return read_split(run.results / "split.csv", "").rows["center"].nunique()
    return run.read_config()[0].folds if kind == "folds" else 0


def _format_difference(first: Run, other: Run, name: str) -> str:
    there, here = (recipe_of(run.read_config()[0]) for run in (first, other))
    differ = [f"{key} ({format_value(here[key])}, not {format_value(there[key])})" for key in here
              if key not in ("seed", "split_seed") and here[key] != there[key]]
    return f"differs from {name} in: {', '.join(differ) or 'images or weights'}"


def _recipe(config: Config) -> str:
    return str({key: value for key, value in recipe_of(config).items() if key not in ("seed", "split_seed")})


def aggregate(groups: list[Group]) -> pd.DataFrame:
    """Computes mean and spread of the scores of each group: a row per group, part and score, columns `COLUMNS`.

    Parts: valid (at each run's best epoch), test, and `POOLED` for folds and centers, if all runs are scored.
    """
    rows = []
    for group in groups:
        valid = pd.DataFrame([_valid_scores(run) for run in group.runs])
        rows += _spread(group, "valid", valid)
        if all(map(is_scored, group.runs)):
            rows += _spread(group, "test", pd.DataFrame([read_test_scores(run)["estimate"] for run in group.runs]))
            single = not group.runs[0].read_config()[0].label_delim
            if single and group.kind != "seeds" and len(group.runs) == group.expected:
                rows += [{"group": group.name, "runs": len(group.runs), "part": POOLED, "score": name,
                          "mean": row["estimate"], "low": row["low"], "high": row["high"], "interval": BY_PATIENT}
                         for name, row in pool_tests(group.runs).iterrows()]
    return pd.DataFrame(rows, columns=COLUMNS)


def _valid_scores(run: Run) -> pd.Series:
    """Returns a run's scores of the validation part: of its best epoch, or of an ensemble's mean."""
    if run.read_config()[1].get("members"):
        return pd.Series(run.read_summary().get("valid") or {}, dtype=float)
    log = read_frame(run.results / "training_log.csv", ("epoch", "val_loss", "val_acc", "macro_auc"))
    best = run.read_summary().get("best_epoch")
    row = log[log["epoch"] == best]
    measured = [name for name in log if name in ("val_loss", "val_acc", "macro_auc") or name.startswith("recall_")]
    return row.iloc[0][measured] if len(row) else pd.Series(np.nan, measured)


def read_test_scores(run: Run) -> pd.DataFrame:
    """Returns estimate, low and high of the whole test part, by score, as `evaluate` wrote them."""
    table = read_frame(run.results / "metrics.csv", ("part", "by", "score", "estimate", "low", "high"),
                       keep_default_na=False, na_values=[""])
    return table[(table["part"] == "test") & (table["by"] == "all")].set_index("score")[["estimate", "low", "high"]]


def _spread(group: Group, part: str, values: pd.DataFrame) -> list[dict]:
    """Returns a row per column of `values`, (runs, scores); NaN for a score that is not defined in every run."""
    count, mean, sd = len(values), values.mean(skipna=False), values.std(ddof=1, skipna=False)
    half = stats.t.ppf((1 + LEVEL) / 2, count - 1) * sd / np.sqrt(count)
    least, most = (pd.Series([LIMITS.get(name, (0.0, 1.0))[end] for name in values], values.columns) for end in (0, 1))
    low, high = ((mean + side * half).clip(least, most) for side in (-1, 1))
    return [{"group": group.name, "runs": count, "part": part, "score": name, "mean": mean[name], "sd": sd[name],
             "low": low[name], "high": high[name], "lowest": values[name].min(), "highest": values[name].max(),
             "interval": OVER_RUNS} for name in values]


def is_scored(run: Run) -> bool:
    """Returns whether `evaluate` has scored a run."""
    return (run.results / FILE).is_file() and (run.results / "metrics.csv").is_file()


def pool_tests(runs: Sequence[Run]) -> pd.DataFrame:
    """Scores the test parts of scored runs as one, see `assess_rows`; no image may be in two of them."""
    classes = runs[0].read_config()[0].classes
    tables = [read_predictions(run, classes).query("part == 'test'") for run in runs]
    return assess_rows(pd.concat(tables, ignore_index=True), classes)


def leave_out_members(groups: list[Group]) -> list[Group]:
    """Returns the groups without those of members, where the ensembles of these are a group."""
    members = {name for group in groups for run in group.runs for name in run.read_config()[1].get("members") or ()}
    return [group for group in groups if not {run.name for run in group.runs} <= members]


def format_groups(groups: list[Group], table: pd.DataFrame) -> list[str]:
    """Returns a few lines on each group, for the screen; those of its table have at most 79 characters."""
    texts = []
    for group in groups:
        rows = table[table["group"] == group.name]
        positives = {choose_positive(run, run.read_config()[0]) for run in group.runs}
        shown = ["val_loss", "val_acc", "macro_auc", "balanced_accuracy",
                 *(f"{score}_{name}" for name in positives for score in ("recall", "sensitivity"))]
        runs = f"{len(group.runs)} of {group.expected}" if len(group.runs) < group.expected else str(len(group.runs))
        lines = [f"{group.name}: {runs} {group.kind}" + (f"; {group.note}" if group.note else ""),
                 f"  {'':{PART}}  {'':{SCORE}}   mean     sd   lowest-highest    95% interval"]
        for row in rows[rows["score"].isin(shown)].itertuples():
            score = row.score.replace("recall_", "sensitivity_")  # the log's name of the same
            score = score if len(score) <= SCORE else f"{score[:SCORE - 1]}~"
            start = f"  {'pooled' if row.part == POOLED else row.part:{PART}}  {score:{SCORE}}"
            if np.isnan(row.mean):
                lines.append(f"{start}  not defined in every run")
                continue
            spread = f"{row.sd:5.3f}  {row.lowest:.3f} to {row.highest:.3f}" if row.interval == OVER_RUNS else " " * 21
            interval = "too few patients" if np.isnan(row.low) else f"{row.low:.3f} to {row.high:.3f}"
            lines.append(f"{start}  {row.mean:5.3f}  {spread}  {interval}")
        if (rows["part"] == POOLED).any():
            lines.append("  Pooled: each test image once, by the run that did not see it; interval by patient.")
        texts.append("\n".join([*lines, f"  {MEANING[group.kind]}"]))
    return texts
