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
