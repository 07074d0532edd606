"""Runs that belong together (seeds of a split, folds, held-out centers) -> mean, spread, interval of their scores."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from busfast.csvfile import read_frame
from busfast.data.split_file import read_split
from busfast.pipelines.config import Config
from busfast.pipelines.splits import name_split, seed_of_split
from busfast.results.bootstrap import LEVEL
from busfast.results.differences import PLACES, apart
from busfast.results.evaluation import choose_positive
from busfast.results.metrics import assess_rows
from busfast.results.predictions import FILE, read_predictions
from busfast.training.runs import DONE, Run
from busfast.yamlfile import read_yaml

COLUMNS = ["group", "runs", "part", "score", "mean", "sd", "low", "high", "lowest", "highest", "interval"]
OVER_RUNS, BY_PATIENT = "t over runs", "bootstrap by patient"
POOLED = "test, pooled"
MEANING = {
    "seeds": "The interval is of the mean over further seeds with this very split; it knows nothing of other patients.",
    "folds": "Folds share most of their training images, so that the interval may be narrower than the truth.",
    "centers": "The interval is of the mean over further centers, as far as these few stand for them."}
NOTE = ("Groups: mean and standard deviation of the runs' own scores (validation: of each run's best epoch; test: "
        f"where `evaluate` has scored all of them); the {LEVEL:.0%} interval, mean -/+ t * sd / sqrt(runs), may pass "
        " 0 and 1: of 2 runs that is 9 times the standard deviation, of 3 runs 2.5 times, of 5 runs 1.2 times. "
        f"\"{POOLED}\": each image once, by the run that did not see it, with the interval of a bootstrap by patient.")


@dataclass(frozen=True)
class Group:
    """Runs that differ in one thing alone.

    Attributes:
        name: such as "phantom/stratified-seeds", "phantom/kfold-5folds", "phantom/leave_one_center_out-centers".
        kind: a key of `MEANING`: what they differ in.
        runs: the newest of each seed, fold or center.
        whole: how many runs there are in a whole group.
        note: what sets it apart from another group of that name.
    """

    name: str
    kind: str
    runs: tuple[Run, ...]
    whole: int
    note: str = ""


def find_groups(runs: list[Run]) -> list[Group]:
    """Finds the groups of two or more finished runs.

    Seeds of a split have the very same split.csv; folds and centers the same table, split seed and number of folds.
    All else that they were trained with is the same, too; runs with another recipe are a group of their own, whose
    name gets a number.
    """
    found = {}
    for run in runs:
        summary = run.results / "summary.yaml"
        if not summary.is_file() or not (run.results / "training_log.csv").is_file():
            continue
        state, (config, record) = read_yaml(summary), run.read_config()
        if state.get("state") not in DONE:
            continue
        begun = (run.results / "config.yaml").stat().st_mtime_ns
        for kind, base, same, own in _places(config, record, state):
            start = (record.get("weights") or {}).get("text", "").partition(" (")[0]  # in brackets: why these
            key = (kind, f"{run.name.split('/')[0]}/{base}", *same, _recipe(config), start)
            members = found.setdefault(key, {})
            members[own] = max(members.get(own, (0, run)), (begun, run), key=lambda one: one[0])
    groups = {}
    for (kind, name, *_), members in found.items():
        if len(members) > 1:
            of = tuple(members[own][1] for own in sorted(members))
            others = groups.setdefault(name, [])
            note = _say_other(others[0].runs[0], of[0], name) if others else ""
            number = f"-{len(others) + 1}" if others else ""
            others.append(Group(f"{name}{number}", kind, of, _count(kind, of[0]) or len(of), note))
    return [group for others in groups.values() for group in others]


def _places(config: Config, record: dict, state: dict):
    """Yields each kind of group that a run may be of: kind, name, what its members share, and what is the run's own."""
    split, fold = record.get("split", ""), record.get("fold", "")
    own_split = (state.get("sha256") or {}).get("split.csv")
    yield "seeds", f"{name_split(split, fold, config)}-seeds", (own_split,), config.seed
    seed = f"-seed{config.seed}" if config.split_seed >= 0 else ""
    same = (record.get("table_sha256"), seed_of_split(config), config.seed)
    if split == "kfold":
        yield "folds", f"kfold-{config.folds}folds{seed}", (*same, config.folds), fold.zfill(4)
    if split == "leave_one_center_out":
        yield "centers", f"leave_one_center_out-centers{seed}", same, fold


def _count(kind: str, run: Run) -> int:
    """How many folds or centers there are; 0: nobody knows how many seeds."""
    if kind == "centers":
        return read_split(run.results / "split.csv", "").rows["center"].nunique()
    return run.read_config()[0].folds if kind == "folds" else 0


def _say_other(first: Run, other: Run, name: str) -> str:
    return f"apart from {name}: {apart(first.read_config()[0], other.read_config()[0]) or 'other images or weights'}"


def _recipe(config: Config) -> str:
    return str({key: value for key, value in dataclasses.asdict(config).items()
                if key not in (*PLACES, "seed", "split_seed")})


def aggregate(groups: list[Group]) -> pd.DataFrame:
    """Computes mean and spread of the scores of each group.

    Returns:
        A row a group, part and score, columns `COLUMNS`. Parts: valid (at each run's best epoch), test, and `POOLED`
        for folds and centers, where `evaluate` has scored every run of the group.
    """
    rows = []
    for group in groups:
        valid = pd.DataFrame([_best_epoch(run) for run in group.runs])
        rows += _spread(group, "valid", valid)
        if all(map(is_scored, group.runs)):
            rows += _spread(group, "test", pd.DataFrame([_test_scores(run) for run in group.runs]))
            if group.kind != "seeds" and len(group.runs) == group.whole:
                rows += [{"group": group.name, "runs": len(group.runs), "part": POOLED, "score": name,
                          "mean": row["estimate"], "low": row["low"], "high": row["high"], "interval": BY_PATIENT}
                         for name, row in pool_tests(group.runs).iterrows()]
    return pd.DataFrame(rows, columns=COLUMNS)


def _best_epoch(run: Run) -> pd.Series:
    log = read_frame(run.results / "training_log.csv", ("epoch", "val_loss", "val_acc", "macro_auc"))
    best = read_yaml(run.results / "summary.yaml").get("best_epoch")
    row = log[log["epoch"] == best]
    measured = [name for name in log if name in ("val_loss", "val_acc", "macro_auc") or name.startswith("recall_")]
    return row.iloc[0][measured] if len(row) else pd.Series(np.nan, measured)


def _test_scores(run: Run) -> pd.Series:
    found = read_frame(run.results / "metrics.csv", ("part", "by", "score", "estimate"), keep_default_na=False,
                       na_values=[""])
    return found[(found["part"] == "test") & (found["by"] == "all")].set_index("score")["estimate"]


def _spread(group: Group, part: str, values: pd.DataFrame) -> list[dict]:
    """One row a column of `values`, (runs, scores); a score that is not defined in every run has none."""
    count, mean, sd = len(values), values.mean(skipna=False), values.std(ddof=1, skipna=False)
    half = stats.t.ppf((1 + LEVEL) / 2, count - 1) * sd / np.sqrt(count)
    return [{"group": group.name, "runs": count, "part": part, "score": name, "mean": mean[name], "sd": sd[name],
             "low": mean[name] - half[name], "high": mean[name] + half[name], "lowest": values[name].min(),
             "highest": values[name].max(), "interval": OVER_RUNS} for name in values]


def is_scored(run: Run) -> bool:
    """Returns whether `evaluate` has scored a run."""
    return (run.results / FILE).is_file() and (run.results / "metrics.csv").is_file()


def pool_tests(runs: Sequence[Run]) -> pd.DataFrame:
    """Scores the test parts of scored runs as one, as `assess_rows` does; no image may be in two of them."""
    classes = runs[0].read_config()[0].classes
    tables = [read_predictions(run, classes).query("part == 'test'") for run in runs]
    return assess_rows(pd.concat(tables, ignore_index=True), classes)


def format_groups(groups: list[Group], table: pd.DataFrame) -> list[str]:
    """Returns a few lines on each group, for the screen."""
    said = []
    for group in groups:
        of = table[table["group"] == group.name]
        positive = choose_positive(group.runs[0].read_config()[0].classes)
        shown = ["val_loss", "val_acc", "macro_auc", f"recall_{positive}", "balanced_accuracy",
                 f"sensitivity_{positive}"]
        runs = f"{len(group.runs)} of {group.whole}" if len(group.runs) < group.whole else str(len(group.runs))
        lines = [f"{group.name}: {runs} {group.kind}; mean, standard deviation, lowest to highest, (95% interval)"
                 + (f"; {group.note}" if group.note else "")]
        for row in of[of["score"].isin(shown)].itertuples():
            spread = f" sd {row.sd:.3f}  {row.lowest:.3f} to {row.highest:.3f} " if row.interval == OVER_RUNS else \
                " " * 26
            if np.isnan(row.mean):
                lines.append(f"  {row.part:13}{row.score:24} not defined in every run")
                continue
            lines.append(f"  {row.part:13}{row.score:24} {row.mean:.3f} {spread} ({row.low:.3f} to {row.high:.3f})")
        said.append("\n".join([*lines, f"  {MEANING[group.kind]}"]))
    return said
