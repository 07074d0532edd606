"""Figures and verdicts follow from what was measured. Covers busfast/bench/report.py."""

import pandas as pd
import pytest

from busfast.bench import arena, report


def outcome(name, values, **more):
    return arena.Outcome(name, values, **more)


def test_rows_are_medians_spreads_and_ratios():
    table = report.tabulate([outcome("a", [1.0, 2.0, 3.0], facts={"apart": 0.5}, peak=2_000_000),
                             outcome("b", [8.0, 10.0, 30.0], peak=1_000_000)], "a", ["apart"])
    assert list(table) == ["name", "img_per_s", "img_per_s_iqr", "ratio", "apart", "memory_mb"]
    assert table["img_per_s"].tolist() == [2, 10] and table["img_per_s_iqr"].tolist() == [1, 11]
    assert table["ratio"].tolist() == [1, 5] and table["memory_mb"].tolist() == [2, 1]
    assert table["apart"][0] == 0.5 and pd.isna(table["apart"][1])


def test_verdicts_follow_from_the_rows():
    rows = report.tabulate([outcome("a", [2.0], peak=10_000_000), outcome("b", [10.0], peak=13_000_000)], "a")
    targets = [report.Target("b", "a", 5), report.Target("b", "a", 5.1), report.Target("b", "c", 1),
               report.Target("b", "a", 1.2, True, "memory_mb"), report.Target("b", "a", 1.3, True, "memory_mb")]
    verdicts = report.judge(report.Report("", rows, ("img_per_s", ""), targets))
    assert verdicts["verdict"].tolist() == ["reached", "NOT reached", "not measured: c", "NOT reached", "reached"]
    assert verdicts["ratio"].tolist()[:2] == [5, 5] and verdicts["ratio"].tolist()[3] == pytest.approx(1.3)


def test_chart_has_dots_on_a_logarithmic_axis_with_targets_and_limits_as_lines():
    rows = report.tabulate([outcome("peer", [2.0]), outcome("busfast cached", [90.0, 100.0, 110.0]),
                            outcome("limit: decoding", [120.0])], "peer")
    targets = [report.Target("busfast cached", "peer", 40), report.Target("busfast cached", "absent", 1),
               report.Target("busfast cached", "peer", 1.2, True, "memory_mb")]
    axes = report.draw(report.Report("", rows, ("img_per_s", "images a second"), targets)).axes[0]
    assert not axes.patches and axes.get_xscale() == "log" and "logarithmic" in axes.get_xlabel()
    assert [label.get_text() for label in axes.get_yticklabels()] == rows["name"].tolist()[::-1]
    dots = {line.get_ydata()[0]: line.get_xdata()[0] for line in axes.lines if line.get_marker() in ("o", "s")}
    assert dots == {2: 2, 1: 100, 0: 120}, "a dot stands beside another row's name"
    mark, = (line for line in axes.lines if line.get_label().startswith("target"))
    assert (mark.get_xdata()[0], mark.get_ydata()[0]) == (80, 1)
    limit, = (one for one in axes.collections if one.get_label() == "limit")
    assert limit.get_segments()[0][0][0] == 120
