import pytest

from busfast.sweep import report
from busfast.sweep.trial import Outcome


def test_the_key_that_decides_is_found_and_drawn(make_study):
    sweep = make_study()
    while following := sweep.next():
        one, config = following
        sweep.conclude(one, Outcome("finished", 0.9 - abs(config.lr - 3e-3), 6))
        if len(sweep.done()) == report.MIN_TRIALS - 1:
            assert report.find_importance(sweep) == {}
    shares = report.find_importance(sweep)
    assert list(shares) == ["lr", "wd"] and shares["lr"] > 0.6 and sum(shares.values()) == pytest.approx(1)
    report.draw_importance(shares, sweep.run.results / "importance.png", "$caption$")
    assert (sweep.run.results / "importance.png").read_bytes()[:4] == b"\x89PNG"
