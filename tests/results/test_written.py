"""What evaluate has written is not computed again, and is not mistaken for what was asked.

Covers busfast/results/written.py and busfast/results/facts.py.
"""

import numpy as np
import pandas as pd

from busfast.cli import main
from busfast.results import intervals
from busfast.results.evaluation import summarize
from busfast.results.facts import describe_run
from busfast.results.report import gather
from busfast.training.runs import Run

NAME = "phantom/center_holdout"


def run(*words, code=0):
    assert main(list(words)) == code


def test_the_report_and_the_bundle_take_the_intervals_that_evaluate_wrote(evaluated, capsys, monkeypatch):
    left_out, leave_out = [], intervals.leave_out
    monkeypatch.setattr(intervals, "leave_out", lambda *args: left_out.append(1) or leave_out(*args))
    facts = describe_run(Run(NAME))
    page, reused = gather(summarize(Run(NAME), reuse=True), {}), len(left_out)
    left_out.clear()
    assert page == gather(summarize(Run(NAME)), {})  # the same to the digit
    assert reused == 0 < len(left_out)
    left_out.clear()
    describe_run(Run(NAME), scores=False)
    assert not left_out  # for `predict --run`
    capsys.readouterr()
    for name in ("metrics.csv", "operating_points.csv"):
        (Run(NAME).results / name).unlink()
    again = describe_run(Run(NAME))
    assert left_out and again.keys() == facts.keys()
    for score, values in again["metrics"]["scores"].items():  # the files have six digits
        assert np.allclose(np.array(values, float), np.array(facts["metrics"]["scores"][score], float), rtol=1e-5,
                           atol=1.1e-6, equal_nan=True)
    out = capsys.readouterr().out
    assert "metrics.csv holds other scores" in out and "operating_points.csv holds other scores" in out


def test_intervals_of_another_target_or_class_are_not_reused(evaluated, capsys):
    capsys.readouterr()
    run("report", f"--run={NAME}")
    assert "computing its intervals again" not in capsys.readouterr().out
    run("report", f"--run={NAME}", "--target=0.8", "--positive=benign")
    assert "operating_points.csv holds other scores" in capsys.readouterr().out
    wanted = summarize(Run(NAME), target=0.8, positive="benign").points
    reused = summarize(Run(NAME), target=0.8, positive="benign", reuse=True).points
    pd.testing.assert_frame_equal(wanted, reused)
