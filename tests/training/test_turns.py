"""Several trainings of one command: the time left counts all of them, and one line continues all, wherever they end."""

import dataclasses

import pytest

from busfast.cli import main
from busfast.results import evaluation
from busfast.training import parallel_runs, turns
from busfast.training.fit import SaveFinal
from busfast.training.job import TrainOptions
from busfast.training.runs import Run
from busfast.training.turns import Training, train_in_turn

TWO = "train --epochs=1 --seeds=2 --then=evaluate"


def interrupt(*_, **__):
    raise KeyboardInterrupt


def test_one_line_continues_all_and_what_is_done_is_passed_over_in_one_line(workdir, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "evaluate_run", interrupt)  # after the first training
        assert main(TWO.split()) == 130
    said, after = capsys.readouterr()
    assert said.endswith(f"\n  to continue: python -m busfast {TWO} --resume\n") and "training 1 of 2 (seed 42)" in said
    assert "interrupted" not in after  # nothing stands below the line to copy
    with monkeypatch.context() as patch:
        patch.setattr(SaveFinal, "after_fit", interrupt)  # within the second
        assert main([*TWO.split(), "--resume"]) == 130
    said = capsys.readouterr().out
    assert "resume: phantom/stratified-seed42 is finished; nothing is left to do\n" in said
    assert "training 2 of 2 (seed 43)" in said and "training 1" not in said
    assert said.count("to continue: ") == 1 and said.endswith(f"to continue: python -m busfast {TWO} --resume\n")
    assert main([*TWO.split(), "--resume"]) == 0
    capsys.readouterr()
    assert main([*TWO.split(), "--resume"]) == 0
    said = capsys.readouterr().out
    assert "resume: phantom/stratified-seed42, phantom/stratified-seed43 are finished; nothing is left to do\n" in said
    assert said.count("nothing is left") == 1 and "training " not in said
    assert all((Run(f"phantom/stratified-seed{seed}").results / "metrics.csv").is_file() for seed in (42, 43))


def test_runs_side_by_side_that_are_interrupted_are_continued_by_one_line(workdir, monkeypatch, capsys):
    monkeypatch.setattr(parallel_runs, "run_jobs", interrupt)
    assert main(["train", "--seeds=2", "--jobs=2"]) == 130
    said = capsys.readouterr().out
    assert said.count("to continue") == 1
    assert said.endswith("\n  to continue: python -m busfast train --seeds=2 --jobs=2 --resume\n")


@pytest.mark.parametrize(("follows", "more", "expected"), [
    (False, False, [(2, 0, "to the end of all 3 trainings"), (1, 0, "to the end of all 3 trainings"),
                    (0, 0, "to the end of all 3 trainings")]),
    (True, False, [(2, 0, "to the end of all 3 trainings, not counting --then"),
                   (1, 20, "to the end of all 3 trainings and of --then"),
                   (0, 10, "to the end of all 3 trainings and of --then")]),
    (False, True, [(2, 0, "to the end of all 3 trainings, not counting --then")] * 1)])
def test_the_time_left_counts_the_trainings_that_come_and_what_follows_each_once_its_length_is_known(
        parts, monkeypatch, follows, more, expected):
    clock, seen = [0.0], []

    def follow(run):
        clock[0] += 10
    monkeypatch.setattr(turns.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(turns, "train_run", lambda *given: seen.append(dataclasses.astuple(given[-1].turn)))
    from busfast.pipelines.config import Config

    trainings = [Training(f"seed{seed}", Config(seed=seed), parts) for seed in (1, 2, 3)]
    train_in_turn("phantom", trainings, TrainOptions(), {}, follow if follows else None, more)
    assert seen[:len(expected)] == expected and len(seen) == 3
    seen.clear()
    train_in_turn("phantom", trainings, TrainOptions(), {"seed2": Run("phantom/seed2")})
    assert [later for later, *_ in seen] == [1, 0]
    seen.clear()
    train_in_turn("phantom", trainings[:1], TrainOptions(), {})
    assert seen == [(0, 0.0, "")]
