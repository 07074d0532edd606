"""What a bench found, as CSV, Markdown and a bar chart; every ratio and every verdict is computed from the rows."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from busfast.bench.arena import Outcome
from busfast.bench.machine import describe_machine, describe_versions
from busfast.figures import STYLES, new_figure, save_figure
from busfast.files import atomic, make_folder

OWN, PEER = STYLES[1]["color"], STYLES[0]["color"]


@dataclass(frozen=True)
class Target:
    """A ratio of two rows that is to be reached.

    Attributes:
        over, under: names of rows.
        bound: the ratio over / under is to be at least this,
        at_most: or at most.
        column: of the rows.
    """

    over: str
    under: str
    bound: float
    at_most: bool = False
    column: str = "img_per_s"


@dataclass
class Report:
    """All that a bench found.

    Attributes:
        title: of the chart and the page.
        rows: a row a contender; the first column is `name`.
        drawn: the column that the chart shows, and what it is in words; `<column>_iqr` or `<column>_sd`, where there
            is one, becomes the whiskers.
        targets: ratios to print.
        notes: lines to read with the figures.
        left_out: name -> reason.
    """

    title: str
    rows: pd.DataFrame
    drawn: tuple[str, str]
    targets: Sequence[Target] = ()
    notes: Sequence[str] = ()
    left_out: dict[str, str] = field(default_factory=dict)


def tabulate(outcomes: Sequence[Outcome], base: str, facts: Sequence[str] = (), memory: bool = True) -> pd.DataFrame:
    """Makes the rows of a report: name, img_per_s (median over the rounds), img_per_s_iqr, ratio to the row `base`,

    the facts asked for, memory_mb (peak, resident; see `Outcome.peak`). Whoever was left out has no row.
    """
    rows = []
    for one in outcomes:
        if one.values:
            low, middle, high = np.percentile(one.values, (25, 50, 75))
            row = {"name": one.name, "img_per_s": middle, "img_per_s_iqr": high - low, "ratio": np.nan}
            row |= {fact: one.facts.get(fact) for fact in facts}
            rows.append(row | ({"memory_mb": one.peak / 1e6} if memory else {}))
    columns = ["name", "img_per_s", "img_per_s_iqr", "ratio", *facts, *(["memory_mb"] if memory else [])]
    table = pd.DataFrame(rows, columns=columns)
    reference = table.loc[table["name"] == base, "img_per_s"]
    if len(reference):
        table["ratio"] = table["img_per_s"] / reference.iloc[0]
    return table


def reasons(outcomes: Sequence[Outcome]) -> dict[str, str]:
    """Returns who was left out, and why."""
    return {one.name: one.reason for one in outcomes if one.reason}


def judge(report: Report) -> pd.DataFrame:
    """Holds each target against the rows.

    Returns:
        A row a target: what, ratio (NaN where one of the two was not measured), wanted, verdict.
    """
    found = []
    for target in report.targets:
        values = dict(zip(report.rows["name"], report.rows[target.column], strict=True))
        ratio = values.get(target.over, np.nan) / values.get(target.under, np.nan)
        absent = [name for name in (target.over, target.under) if name not in values]
        reached = ratio <= target.bound if target.at_most else ratio >= target.bound
        found.append({"what": ("" if target.column == "img_per_s" else f"{target.column} of ")
                      + f"{target.over} / {target.under}", "ratio": ratio,
                      "wanted": f"{'at most' if target.at_most else 'at least'} {target.bound:g}",
                      "verdict": f"not measured: {', '.join(absent)}" if absent else
                      "reached" if reached else "NOT reached"})
    return pd.DataFrame(found, columns=["what", "ratio", "wanted", "verdict"])


def publish(report: Report, folder: Path, what: str, command: str) -> None:
    """Prints a report and writes WHAT.csv, WHAT.md and WHAT.png; those of an earlier run are replaced.

    Args:
        report: what was found.
        folder: is made if it is not there.
        what: names the files.
        command: that gives these figures.

    Raises:
        UserError: a file cannot be written.
    """
    verdicts = judge(report)
    print("\n" + _cells(report.rows).to_string(index=False))
    if len(verdicts):
        print("\n" + _cells(verdicts).to_string(index=False))
    for name, reason in report.left_out.items():
        print(f"left out: {name}: {reason}")
    make_folder(folder)
    files = [folder / f"{what}.{suffix}" for suffix in ("csv", "md", "png")]
    replaced = any(file.exists() for file in files)
    with atomic(files[0]) as file:
        report.rows.to_csv(file, index=False, float_format="%.6g")
    with atomic(files[1]) as file:
        file.write(_page(report, verdicts, command, files[2].name))
    _draw(report, files[2])
    print(("replaced " if replaced else "wrote ") + ", ".join(map(str, files)), flush=True)


def _page(report: Report, verdicts: pd.DataFrame, command: str, chart: str) -> str:
    now = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="minutes")
    parts = [f"# {report.title}", f"```\n{command}\n```", f"![{report.title}]({chart})", _markdown(report.rows)]
    if len(verdicts):
        parts += ["Ratios, of medians:", _markdown(verdicts)]
    if report.left_out:
        parts.append("Left out:\n" + "".join(f"\n- {name}: {reason}" for name, reason in report.left_out.items()))
    notes = [*report.notes, f"Machine: {describe_machine()}.", f"Versions: {describe_versions()}.", f"Date: {now}."]
    return "\n\n".join([*parts, "".join(f"- {note}\n" for note in notes)])


def _cells(table: pd.DataFrame) -> pd.DataFrame:
    """The table in text: numbers to as many digits as mean something."""
    return table.map(lambda value: value if isinstance(value, str) else "" if pd.isna(value) else _number(value))


def _number(value: float) -> str:
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}" if abs(value) >= 0.0005 else f"{value:.4f}"


def _markdown(table: pd.DataFrame) -> str:
    numeric = [pd.api.types.is_numeric_dtype(table[name]) for name in table]
    lines = [list(table.columns), ["--:" if number else "---" for number in numeric], *_cells(table).to_numpy()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _draw(report: Report, path: Path) -> None:
    column, words = report.drawn
    rows = report.rows[::-1]  # bars are drawn from below
    values = rows[column]
    whisker = rows.get(f"{column}_iqr", 2 * rows.get(f"{column}_sd", pd.Series(0.0, rows.index))) / 2
    figure, (axes,) = new_figure(report.title, size=(7.2, 1.3 + 0.3 * len(rows)), grid="x")
    colors = [OWN if name.startswith("busfast") else PEER for name in rows["name"]]
    wide = len(rows) > 1 and values.max() > 20 * values.min() > 0  # a short bar must still be told from none
    axes.barh(rows["name"], values, color=colors, height=0.62, log=wide)
    axes.errorbar(values, range(len(rows)), xerr=whisker, fmt="none", ecolor="0.25", elinewidth=1, capsize=2)
    for place, (value, half) in enumerate(zip(values, whisker, strict=True)):
        axes.annotate(_number(value), (value + half, place), xytext=(4, 0), textcoords="offset points", fontsize=8,
                      va="center", color="0.2")
    axes.margins(x=0.12)
    axes.set_xlabel(words + (" (logarithmic)" if wide else ""))
    save_figure(figure, path)
