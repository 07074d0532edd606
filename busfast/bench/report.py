"""A bench's results as CSV, Markdown and a chart; every ratio and verdict is computed from the rows."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from busfast.bench.arena import Outcome
from busfast.bench.machine import CPU, describe_machine, describe_versions
from busfast.csvfile import write_csv
from busfast.figures import GRAY, STYLES, add_legend, new_figure, save_figure
from busfast.files import atomic
from busfast.text import markdown_table

OWN, PEER = STYLES[1], STYLES[0]
MEDIAN = "{} interleaved rounds after a warm-up; img_per_s is the median, img_per_s_iqr the interquartile range."
MEMORY = "memory_mb: peak resident memory of the process, with the private memory of its workers."


@dataclass(frozen=True)
class Target:
    """A ratio of two rows that should be reached."""

    over: str  # name of a row
    under: str  # name of another
    bound: float  # the smallest ratio over / under
    at_most: bool = False  # whether `bound` is the largest
    column: str = "img_per_s"


@dataclass
class Report:
    """The results of a bench."""

    title: str  # of the chart and the page
    rows: pd.DataFrame  # one per contender; the first column is `name`
    drawn: tuple[str, str]  # column and its label; whiskers: `<column>_iqr` or `<column>_sd`, if any
    targets: Sequence[Target] = ()
    notes: Sequence[str] = ()  # to read with the figures
    skipped: dict[str, str] = field(default_factory=dict)  # name -> reason
    packages: Sequence[str] = ()  # optional ones whose versions matter
    device: torch.device = CPU  # of the contenders


def tabulate(outcomes: Sequence[Outcome], base: str, facts: Sequence[str] = (), memory: bool = True) -> pd.DataFrame:
    """Makes the rows of a report: name, img_per_s (median), img_per_s_iqr, ratio, the `facts`, memory_mb.
    Ratios are taken to the row `base`; contenders that were skipped get no row. For `memory` see `Outcome.peak`."""
    rows = []
    for outcome in outcomes:
        if outcome.values:
            low, median, high = np.percentile(outcome.values, (25, 50, 75))
            row = {"name": outcome.name, "img_per_s": median, "img_per_s_iqr": high - low, "ratio": np.nan}
            row |= {fact: outcome.facts.get(fact) for fact in facts}
            rows.append(row | ({"memory_mb": outcome.peak / 1e6} if memory else {}))
    columns = ["name", "img_per_s", "img_per_s_iqr", "ratio", *facts, *(["memory_mb"] if memory else [])]
    table = pd.DataFrame(rows, columns=columns)
    reference = table.loc[table["name"] == base, "img_per_s"]
    if len(reference):
        table["ratio"] = table["img_per_s"] / reference.iloc[0]
    return table


def reasons(outcomes: Sequence[Outcome]) -> dict[str, str]:
    """Returns name -> reason of those that were skipped."""
    return {outcome.name: outcome.reason for outcome in outcomes if outcome.reason}


def judge(report: Report) -> pd.DataFrame:
    """Returns a row per target: what, ratio (NaN where one of the two was not measured), wanted, verdict."""
    verdicts = []
    for target in report.targets:
        values = dict(zip(report.rows["name"], report.rows[target.column], strict=True))
        ratio = values.get(target.over, np.nan) / values.get(target.under, np.nan)
        absent = [name for name in (target.over, target.under) if name not in values]
        reached = ratio <= target.bound if target.at_most else ratio >= target.bound
        verdicts.append({"what": ("" if target.column == "img_per_s" else f"{target.column} of ")
                         + f"{target.over} / {target.under}", "ratio": ratio,
                         "wanted": f"{'at most' if target.at_most else 'at least'} {target.bound:g}",
                         "verdict": f"not measured: {', '.join(absent)}" if absent else
                         "reached" if reached else "NOT reached"})
    return pd.DataFrame(verdicts, columns=["what", "ratio", "wanted", "verdict"])


def publish(report: Report, folder: Path, what: str, command: str) -> None:
    """Prints a report and writes WHAT.csv, WHAT.md and WHAT.png into an existing folder, in place of an earlier run's.
    `command` is the one that makes these figures. Raises UserError if a file cannot be written."""
    verdicts = judge(report)
    print("\n" + _format_cells(report.rows).to_string(index=False))
    if len(verdicts):
        print("\n" + _format_cells(verdicts).to_string(index=False))
    for name, reason in report.skipped.items():
        print(f"skipped: {name}: {reason}")
    files = [folder / f"{what}.{suffix}" for suffix in ("csv", "md", "png")]
    replaced = any(file.exists() for file in files)
    write_csv(report.rows, files[0], float_format="%.6g")
    with atomic(files[1]) as file:
        file.write(_make_page(report, verdicts, command, files[2].name))
    save_figure(draw(report), files[2])
    print(("replaced " if replaced else "wrote ") + ", ".join(map(str, files)))


def _make_page(report: Report, verdicts: pd.DataFrame, command: str, chart: str) -> str:
    now = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="minutes")
    parts = [f"# {report.title}", f"```\n{command}\n```", f"![{report.title}]({chart})", _markdown(report.rows)]
    if len(verdicts):
        parts += ["Ratios, of medians:", _markdown(verdicts)]
    if report.skipped:
        parts.append("Skipped:\n" + "".join(f"\n- {name}: {reason}" for name, reason in report.skipped.items()))
    notes = [*report.notes, f"Machine: {describe_machine(report.device)}.",
             f"Versions: {describe_versions(report.packages)}.", f"Date: {now}."]
    return "\n\n".join([*parts, "".join(f"- {note}\n" for note in notes)])


def _format_cells(table: pd.DataFrame) -> pd.DataFrame:
    """The table as text, numbers with three significant digits."""
    return table.map(lambda value: value if isinstance(value, str) else "" if pd.isna(value) else _format(value))


def _format(value: float) -> str:
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}" if abs(value) >= 0.0005 else f"{value:.4f}"


def _markdown(table: pd.DataFrame) -> str:
    return markdown_table(list(table), _format_cells(table).to_numpy(), table.select_dtypes("number").columns)


def draw(report: Report) -> Figure:
    """Draws a dot for each row, a mark at what each target asks of its row, and a line where a row is a limit."""
    column, label = report.drawn
    rows = report.rows[::-1].reset_index(drop=True)  # the first is on top
    values = rows[column]
    whisker = rows.get(f"{column}_iqr", 2 * rows.get(f"{column}_sd", pd.Series(0.0, rows.index))) / 2
    figure, (axes,) = new_figure(report.title, size=(7.2, 1.6 + 0.3 * len(rows)), grid="both")
    for place, (name, value, half) in enumerate(zip(rows["name"], values, whisker, strict=True)):
        style = OWN if name.startswith("busfast") else PEER
        axes.errorbar(value, place, xerr=half, color=style["color"], marker=style["marker"], capsize=2)
        axes.annotate(_format(value), (1, place), xytext=(4, 0), xycoords=("axes fraction", "data"),
                      textcoords="offset points", fontsize=8, va="center", annotation_clip=False)
    measured, places = (dict(zip(rows["name"], one, strict=True)) for one in (values, rows.index))
    marks = [(target.bound * measured[target.under], places[target.over]) for target in report.targets
             if target.column == column and not target.at_most and {target.over, target.under} <= measured.keys()]
    if marks:
        axes.plot(*zip(*marks, strict=True), color=GRAY, marker="|", markersize=14, markeredgewidth=2, zorder=1,
                  linestyle="none", label="target: at least this")
    limits = [value for name, value in measured.items() if name == "ceiling" or name.startswith("limit")]
    if limits:
        axes.vlines(limits, 0, 1, transform=axes.get_xaxis_transform(), color=GRAY, linestyle=":", label="limit")
    axes.set_yticks(rows.index, [name.replace("ceiling", "bare loop").replace("_", " ") for name in rows["name"]])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    logarithmic = len(rows) > 1 and values.max() > 20 * values.min() > 0
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:,g}")
    else:
        axes.set_xlim(left=0)
    axes.set_xlabel(label + (" (logarithmic)" if logarithmic else ""))
    if marks or limits:
        add_legend(axes, "below")
    return figure
