"""The pictures of a sweep show its trials and what decides. Covers busfast/sweep/report.py."""

import pytest

from busfast.sweep import report
from busfast.sweep.trial import Outcome


def test_the_key_that_decides_is_found_and_drawn(make_study, monkeypatch):
    sweep = make_study()
    while following := sweep.next():
        one, config = following
        sweep.conclude(one, Outcome("finished", 0.9 - abs(config.lr - 3e-3), 6))
        if len(sweep.done()) == report.MIN_TRIALS - 1:
            assert report.find_importance(sweep) == {}
    shares = report.find_importance(sweep)
    assert list(shares) == ["lr", "wd"] and shares["lr"] > 0.6 and sum(shares.values()) == pytest.approx(1)
    figures = {}
    monkeypatch.setattr(report, "save_figure", lambda figure, path: figures.update({path.name: figure.axes[0]}))
    report.draw_importance(shares, sweep.run.results / "importance.png", "$caption$")
    axes = figures["importance.png"]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(shares) and axes.yaxis_inverted()
    assert [bar.get_width() for bar in axes.patches] == list(shares.values())
    assert [text.get_text() for text in axes.texts] == [f"{share:.0%}" for share in shares.values()]


def test_the_history_shows_what_became_of_each_trial_and_the_best_so_far(make_study, monkeypatch):
    sweep, figures = make_study(trials=4), []
    for value, state in ((0.6, "finished"), (0.9, "pruned"), (None, "failed"), (0.8, "finished")):
        one, _ = sweep.next()
        if state == "pruned":
            sweep.report(one, 1, value)
        sweep.conclude(one, Outcome(state, value, 6))
    monkeypatch.setattr(report, "save_figure", lambda figure, path: figures.append(figure.axes[0]))
    report.draw_history(sweep, None, "")
    (axes,) = figures
    dots = {dots.get_label(): dots.get_offsets().tolist() for dots in axes.collections}
    assert dots == {"finished": [[0, 0.6], [3, 0.8]], "pruned": [[1, 0.9]], "failed": [[2, 0.02]]}
    (best,) = axes.lines
    assert [list(values) for values in best.get_data()] == [[0, 1, 2, 3], [0.6, 0.6, 0.6, 0.8]]
