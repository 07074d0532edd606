import json

import pytest

from busfast.errors import UserError
from busfast.sweep import study
from busfast.sweep.study import JOURNAL, check_unchanged, repair_journal
from busfast.sweep.trial import Outcome
from busfast.training.runs import Run

SWEEP = Run("phantom/sweep-stratified")


@pytest.mark.parametrize(("objective", "good", "bad"), [("macro_auc", 0.9, 0.6), ("val_loss", 0.6, 0.9)])
def test_a_trial_worse_than_the_median_is_given_up_after_a_third_of_the_epochs(make_study, objective, good, bad):
    sweep = make_study(objective)
    for _ in range(study.STARTUP_TRIALS):
        one, _ = sweep.next()
        assert not any(sweep.report(one, epoch, good if _ else bad) for epoch in range(1, 7))
        sweep.conclude(one, Outcome("finished", good, 6))
    worse, better = sweep.next()[0], sweep.next()[0]
    assert [sweep.report(worse, epoch, bad) for epoch in (1, 2)] == [False, True]
    assert [sweep.report(better, epoch, good) for epoch in (1, 2, 3)] == [False, False, False]
    assert sweep.best().value == good


def test_without_a_pruner_none_is_given_up(make_study):
    sweep = make_study(pruner="none")
    for _ in range(study.STARTUP_TRIALS):
        sweep.conclude(sweep.next()[0], Outcome("finished", 0.9, 6))
    assert not sweep.report(sweep.next()[0], 5, 0.1)


def test_own_values_that_lie_outside_are_not_tried_and_no_trial_is_counted_twice(make_study):
    sweep = make_study(params="lr=1e-2:1e-1", trials=2)
    assert sweep.outside == ["lr"] and sweep.next()[1].lr > 1e-2
    sweep.interrupt()
    assert [sweep.next() is None for _ in range(3)] == [False, False, True]


def test_what_was_interrupted_beside_others_is_drawn_again_and_nothing_else_is(make_study):
    sweep = make_study(trials=4)
    drawn = [sweep.next()[0] for _ in range(3)]
    sweep.conclude(drawn[2], Outcome("finished", 0.9, 6))
    sweep = make_study(trials=4)  # the process of the other two was killed
    again = [sweep.next()[0] for _ in range(3)]
    assert [one.params for one in again[:2]] == [one.params for one in drawn[:2]]
    assert again[0].params["lr"] == 1e-3 and again[2].params != drawn[2].params
    assert sweep.next() is None


@pytest.mark.parametrize("content", [b"no journal", b"\x80\x04K\x01.\n", b'[1]\n', b'{"op_code": 77}\n', b'{}\n'])
def test_a_journal_that_is_none_is_refused_and_stays(make_study, content):
    (SWEEP.results / JOURNAL).write_bytes(content)
    with pytest.raises(UserError, match="journal.jsonl is"):
        make_study()
    assert (SWEEP.results / JOURNAL).read_bytes() == content


def test_half_a_line_is_taken_off_a_journal(tmp_path):
    path, whole = tmp_path / JOURNAL, json.dumps({"op_code": 1}) + "\n"
    for content in (whole, whole + '{"op_'):
        path.write_text(content)
        repair_journal(path)
        assert path.read_text() == whole


def test_a_sweep_of_version_0_1_is_resumed_unless_it_used_a_setting_that_was_removed():
    check_unchanged(SWEEP, {"epochs": 3, "progressive": []}, {"epochs": 3})
    with pytest.raises(UserError, match=r"progressive was \[48\] and is now None.*leave out --resume"):
        check_unchanged(SWEEP, {"epochs": 3, "progressive": [48]}, {"epochs": 3})
