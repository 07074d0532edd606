"""A sweep: what it varies, what it refuses, that it goes on where it was stopped, and never sees the test part."""

import importlib.util
import json
import shutil
from pathlib import Path

import dying
import pandas as pd
import pytest
import yaml
from conftest import write_pipeline

from busfast import sweep as sweeping
from busfast.cli import main
from busfast.errors import UserError
from busfast.pipelines.config import Config
from busfast.sweep import report, study, trial, workers
from busfast.sweep.space import apply, augmentation, ends, read_space
from busfast.sweep.study import JOURNAL, Request, Sweep, mend
from busfast.sweep.trial import Outcome, Report
from busfast.training.runs import Run

SWEEP = Run("phantom/sweep-stratified")
WORDS = ["sweep", "--params=lr,augment", "--trials=3"]


def table(run=SWEEP) -> pd.DataFrame:
    return pd.read_csv(run.results / "trials.csv")


def files(folder) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def swept(tmp_path_factory, phantom_folder):
    """A folder with a sweep of three trials; what it said is in said.txt."""
    place = tmp_path_factory.mktemp("swept")
    write_pipeline(place, phantom_folder)
    with pytest.MonkeyPatch.context() as patch, open(place / "said.txt", "w") as said:
        patch.chdir(place)
        patch.setattr("sys.stdout", said)
        assert main(WORDS) == 0
    return place


@pytest.fixture
def copied(swept, tmp_path, monkeypatch):
    """A copy of it, to go on in."""
    shutil.copytree(swept, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


# --- what is varied

@pytest.mark.parametrize(("params", "config", "expected"), [
    ("lr", {}, {"lr": (1e-4, 1e-2)}),
    ("lr", {"lr": 2e-3, "lr_min": 1e-3}, {"lr": (1e-3, 2e-2)}),
    ("lr_min, wd", {}, {"lr_min": (1e-7, 1e-4), "wd": (1e-6, 1e-2)}),
    ("size", {}, {"size": (160, 224, 288)}),
    ("size", {"size": 64}, {"size": (32, 64, 96)}),
    ("size", {"size": 32}, {"size": (32, 64)}),
    ("bs,freeze", {"freeze": 3}, {"bs": (16, 32, 64), "freeze": (0, 2, 3, 4)}),
    ("augment", {}, {"augment": ("none", "light", "own", "strong")}),
    ("augment", {"rotate": 0}, {"augment": ("none", "own")}),
    ("lr=1e-5:1e-3,bs=8/64,size=100:170,dropout=0.1:0.2", {},
     {"lr": (1e-5, 1e-3), "bs": (8, 64), "size": (100, 164), "dropout": (0.1, 0.2)}),
])
def test_each_key_is_varied_around_the_pipelines_own_value_or_as_it_is_told(params, config, expected):
    space = read_space(params, Config(data="x", **config))
    assert list(space) == list(expected)
    for key, values in expected.items():
        assert ends(space[key]) == pytest.approx(values) if key == "lr_min" else ends(space[key]) == values
        assert getattr(space[key], "log", False) == (key in ("lr", "lr_min", "wd"))


@pytest.mark.parametrize(("params", "message"), [
    ("lrr", "Unknown key of --params 'lrr'. Did you mean 'lr'?"),
    ("epochs", "Unknown key of --params 'epochs'"),
    ("lr,lr=1e-3:1e-2", "--params names lr twice"),
    (",", "names nothing to vary"),
    ("lr=1e-3", "'1e-3' does not name two values or more"),
    ("bs=16/16", "'16/16' does not name two values or more, each once"),
    ("lr=1e-2:1e-3", "1e-2:1e-3 is no range"),
    ("lr=1:2:3", "is no range"),
    ("lr=0:1e-3", "begin above 0"),
    ("lr=abc:1", "lr=abc is not a number"),
    ("bs=8:", "bs= is not a whole number"),
    ("bs=1/8", "--params, bs: bs=1 is out of range"),
    ("dropout=0:2", "--params, dropout: dropout=2.0 is out of range"),
    ("augment=none/more", "--params, augment: Unknown augment 'more'"),
    ("arch=a:b", "does not name two values"),
    ("lr=1e-5:1e-3,lr_min=1e-6:1e-4", "--params, lr_min: lr_min=0.0001 is out of range: give a number from 0 to 1e-05"),
    ("lr=1e-9:1e-3", "--params, lr: lr_min=1e-06 is out of range"),
])
def test_what_cannot_be_varied_is_refused_with_the_value(params, message):
    with pytest.raises(UserError) as error:
        read_space(params, Config(data="x"))
    assert message in str(error.value)


def test_what_does_not_vary_or_contradicts_the_pipeline_is_refused():
    with pytest.raises(UserError, match="augment leaves nothing to vary"):
        read_space("augment", Config(data="x", rotate=0, hflip=0))


def test_no_level_of_augmentation_turns_on_a_flip_that_the_pipeline_leaves_out():
    config = Config(data="x", hflip=0.5, vflip=0, rotate=15)
    found = {level: augmentation(config, level) for level in ("none", "light", "own", "strong")}
    assert found == {"none": (0, 0, 0), "light": (0.5, 0, 5), "own": (0.5, 0, 15), "strong": (0.5, 0, 30)}
    strong = apply(config, {"augment": "strong", "lr": 0.01})
    assert (strong.rotate, strong.hflip, strong.lr, strong.size) == (30, 0.5, 0.01, 224)


def test_models_without_pretrained_weights_are_left_out_or_refused_where_others_have_them(capsys):
    config = Config(data="x", device="cpu", loader="torchvision")
    request = sweeping.check_request(config, "arch", 2, 1, "macro_auc", "none")
    assert ends(request.space["arch"]) == ("efficientnet_b0", "tf_efficientnet_lite0")
    assert "mobilenetv3_large_100, resnet18 left out, for they would start from random" in capsys.readouterr().out
    with pytest.raises(UserError, match="compare pretrained with random weights, for there are none of resnet18 here"):
        sweeping.check_request(config, "arch=resnet18/efficientnet_b0", 2, 1, "macro_auc", "none")


@pytest.mark.parametrize(("words", "message"), [
    ("--params=lrr", "Unknown key of --params 'lrr'"),
    ("--trials=0", "trials=0 is out of range"),
    ("--jobs=1000", "of this machine"),
    ("--objective=auc", "Unknown objective 'auc'"),
    ("--pruner=mean", "Unknown pruner 'mean'. Did you mean 'median'?"),
    ("--params=freeze=0/50", "freeze=50"),
    ("--split=all", "Unknown split 'all'"),
])
def test_a_wrong_line_is_refused_and_changes_nothing(workdir, words, message, capsys):
    before = files(workdir)
    assert main(["sweep", *words.split()]) == 2
    assert message in capsys.readouterr().err
    assert files(workdir) == before


def test_without_optuna_the_way_to_it_is_told(workdir, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["sweep"]) == 2
    assert "pip install optuna" in capsys.readouterr().err


# --- a whole sweep

def test_a_sweep_begins_with_the_pipelines_own_values_and_keeps_the_best(swept, monkeypatch):
    monkeypatch.chdir(swept)
    rows, said = table(), (swept / "said.txt").read_text()
    assert list(rows) == ["trial", "state", "lr", "augment", "macro_auc", "epoch", "minutes", "reason"]
    assert rows["state"].tolist() == ["finished"] * 3 and rows["lr"].nunique() == 3
    assert (rows["lr"][0], rows["augment"][0]) == (1e-3, "own")
    best = rows.loc[rows["macro_auc"].idxmax()]
    for row in rows.itertuples():
        log = pd.read_csv(SWEEP.results / f"trial-{row.trial:03}" / "training_log.csv")
        assert row.epoch == log["epoch"][log["val_loss"].idxmin()]  # the monitor's epoch ...
        assert row.macro_auc == pytest.approx(log["macro_auc"][row.epoch - 1])  # ... and the objective there
    assert files(SWEEP.models) == {f"trial-{best.trial:03}/best.pth", f"trial-{best.trial:03}/final.pth"}
    assert {"history.png", "split.csv", "best.yaml"} < files(SWEEP.results)
    assert f"best: trial {best.trial}, macro_auc {best.macro_auc:.3f} (validation)" in said
    assert "[3/3] trial 2: lr " in said and "[1/3] trial 0: lr 0.001  augment own | macro_auc " in said
    assert "its value is too good" in said and "epoch 1/2" not in said
    assert "epoch 1/2" in (SWEEP.results / "trial-000.txt").read_text()


def test_the_best_pipeline_file_trains_the_very_run_by_the_command_that_was_printed(copied, capsys):
    line = next(line for line in (copied / "said.txt").read_text().splitlines() if "busfast train" in line)
    assert main(line.split()[3:]) == 0
    best = table()["macro_auc"].idxmax()
    ours, theirs = (pd.read_csv(path / "training_log.csv").drop(columns="seconds") for path in
                    (Run("phantom/stratified").results, SWEEP.results / f"trial-{best:03}"))
    assert ours.equals(theirs)
    assert yaml.safe_load((SWEEP.results / "best.yaml").read_text())["lr"] == pytest.approx(table()["lr"][best], 1e-5)


def test_a_trial_needs_no_image_of_the_test_part_and_its_table_has_none(workdir, phantom_folder, swept, monkeypatch):
    shutil.copytree(phantom_folder, workdir / "data")
    hidden = []

    def without_test(*args, own=trial.train_run, **kwargs):
        rows = pd.read_csv(SWEEP.results / "split.csv")
        for image in rows["image"][rows["part"] == "test"]:
            (workdir / "data" / image).unlink()
            hidden.append(image)
        return own(*args, **kwargs)

    monkeypatch.setattr(trial, "train_run", without_test)
    assert main(["sweep", "--params=lr,augment", "--trials=1", f"--data={workdir}/data", "--pipeline=phantom"]) == 0
    assert len(hidden) > 10
    used = pd.read_csv(SWEEP.results / "trial-000" / "split.csv")
    assert set(used["part"]) == {"train", "valid"} and not set(hidden) & set(used["image"])
    assert table()["macro_auc"][0] == pd.read_csv(swept / SWEEP.results / "trials.csv")["macro_auc"][0]


def test_a_sweep_that_was_stopped_goes_on_to_the_same_trials(workdir, swept, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        def stop(self, own=Report.after_epoch):
            own(self)
            if len(list(SWEEP.results.glob("trial-*"))) == 4 and self.epoch == 1:  # folder and text of two trials
                raise KeyboardInterrupt
        patch.setattr(Report, "after_epoch", stop)
        assert main(WORDS) == 130
    said = capsys.readouterr().out
    assert "interrupted; 1 of 3 trials are done" in said
    assert "to go on: python -m busfast sweep --params=lr,augment --trials=3 --resume\n" in said
    assert table()["state"].tolist() == ["finished", "interrupted"]
    assert not [name for name in files(".") if "trial-001" in name]
    with open(SWEEP.results / JOURNAL, "a") as file:
        file.write('{"op_code": 4, "work')  # a kill in the middle of a line
    assert main([*WORDS, "--resume"]) == 0
    assert "goes on; 1 of 3 trials are done" in capsys.readouterr().out
    rows, expected = table(), pd.read_csv(swept / SWEEP.results / "trials.csv")
    assert rows["state"].tolist() == ["finished", "interrupted", "finished", "finished"]
    same, finished = ["lr", "augment", "macro_auc", "epoch"], rows[rows["state"] == "finished"]
    assert finished[same].values.tolist() == expected[same].values.tolist()
    assert rows["lr"][1] == rows["lr"][2]


def test_a_sweep_that_is_done_is_left_alone_and_may_be_given_more_trials(copied, monkeypatch, capsys):
    before = {name: (copied / name).read_bytes() for name in files(".") if "trial-" in name}
    assert main([*WORDS, "--resume"]) == 0
    assert "3 trials: 3 finished" in capsys.readouterr().out
    assert {name: (copied / name).read_bytes() for name in before} == before

    def fail(*args, **kwargs):
        raise ValueError("no such luck")

    monkeypatch.setattr(trial, "train_run", fail)
    assert main([*WORDS[:2], "--trials=4", "--resume"]) == 0
    assert "4 trials: 3 finished, 1 failed" in capsys.readouterr().out
    assert table().iloc[3][["trial", "state", "reason"]].tolist() == [3, "failed", "no such luck"]


def test_something_else_is_refused_with_both_values_and_without_resume_a_new_sweep_begins(copied, monkeypatch, capsys):
    before = {name: (copied / name).read_bytes() for name in files(".")}
    assert main(["sweep", "--params=lr=1e-5:1e-3", "--epochs=1", "--seed=1", "--resume"]) == 2
    said = capsys.readouterr().err
    assert "epochs is 2 there and 1 here; " in said
    assert "params is lr 0.0001 to 0.01, by factors, augment none, light, own or strong there and lr 1e-05 to " in said
    assert {name: (copied / name).read_bytes() for name in files(".")} == before
    monkeypatch.setattr(trial, "train_run", lambda *args, **kwargs: 1 / 0)
    assert main([*WORDS[:2], "--trials=1"]) == 0
    assert {name: (copied / name).read_bytes() for name in before} == before
    assert table(Run("phantom/sweep-stratified-2"))["reason"].tolist() == ["division by zero"]


def test_images_that_changed_and_a_journal_that_is_gone_are_refused(copied, capsys):
    text = (SWEEP.results / "split.csv").read_text()
    (SWEEP.results / "split.csv").write_text(text.replace(",valid,", ",train,", 1))
    assert main([*WORDS, "--resume"]) == 2
    assert "are not those that phantom/sweep-stratified was begun with" in capsys.readouterr().err
    (SWEEP.results / JOURNAL).unlink()
    assert main([*WORDS, "--resume"]) == 2
    assert "journal.jsonl is gone, and there are trials beside it" in capsys.readouterr().err


def test_what_is_pruned_or_fails_is_written_down_and_the_sweep_goes_on(workdir, monkeypatch, capsys):
    def hear(self, one, epoch, value, own=Sweep.hear):
        return own(self, one, epoch, value) or one.number == 1

    monkeypatch.setattr(Sweep, "hear", hear)

    def fails_later(*args, own=trial.train_run, **kwargs):
        if args[2] == "trial-002":
            raise RuntimeError("CUDA out of memory:\nno way")
        return own(*args, **kwargs)

    monkeypatch.setattr(trial, "train_run", fails_later)
    assert main(WORDS) == 0
    rows = table()
    assert rows["state"].tolist() == ["finished", "pruned", "failed"]
    assert rows["reason"][2] == "CUDA out of memory: no way" and rows["epoch"][1] == 1
    assert len(pd.read_csv(SWEEP.results / "trial-001" / "training_log.csv")) == 1
    assert files(SWEEP.models) == {"trial-000/best.pth", "trial-000/final.pth"}
    said = capsys.readouterr().out
    assert "(pruned)" in said and "failed: CUDA out of memory: no way" in said
    assert "3 trials: 1 finished, 1 pruned, 1 failed" in said


def test_a_sweep_in_which_nothing_works_ends(workdir, monkeypatch, capsys):
    monkeypatch.setattr(trial, "train_run", lambda *args, **kwargs: 1 / 0)
    assert main(["sweep", "--params=lr"]) == 2
    assert "5 trials in a row failed, the last of them: division by zero" in capsys.readouterr().err
    assert table()["state"].tolist() == ["failed"] * 5


# --- the study

@pytest.fixture
def make(tmp_path, monkeypatch):
    """Makes a study without training."""
    monkeypatch.chdir(tmp_path)
    for folder in (SWEEP.results, SWEEP.models):
        folder.mkdir(parents=True)

    def study_of(objective="macro_auc", pruner="median", trials=20, params="lr,wd", **config):
        config = Config(data="x", epochs=6, **config)
        request = Request(config, read_space(params, config), trials, 1, objective, pruner)
        return Sweep(SWEEP, request, {})
    return study_of


@pytest.mark.parametrize(("objective", "good", "bad"), [("macro_auc", 0.9, 0.6), ("val_loss", 0.6, 0.9)])
def test_a_trial_worse_than_the_median_is_given_up_after_a_third_of_the_epochs(make, objective, good, bad):
    sweep = make(objective)
    for _ in range(study.LOOKED_AT):
        one, _ = sweep.next()
        assert not any(sweep.hear(one, epoch, good if _ else bad) for epoch in range(1, 7))
        sweep.conclude(one, Outcome("finished", good, 6))
    worse, better = sweep.next()[0], sweep.next()[0]
    assert [sweep.hear(worse, epoch, bad) for epoch in (1, 2)] == [False, True]
    assert [sweep.hear(better, epoch, good) for epoch in (1, 2, 3)] == [False, False, False]
    assert sweep.best().value == good


def test_without_a_pruner_none_is_given_up(make):
    sweep = make(pruner="none")
    for _ in range(study.LOOKED_AT):
        sweep.conclude(sweep.next()[0], Outcome("finished", 0.9, 6))
    assert not sweep.hear(sweep.next()[0], 5, 0.1)


def test_own_values_that_lie_outside_are_not_tried_and_no_trial_is_counted_twice(make):
    sweep = make(params="lr=1e-2:1e-1", trials=2)
    assert sweep.outside == ["lr"] and sweep.next()[1].lr > 1e-2
    sweep.interrupt()
    assert [sweep.next() is None for _ in range(3)] == [False, False, True]


def test_what_was_interrupted_beside_others_is_drawn_again_and_nothing_else_is(make):
    sweep = make(trials=4)
    drawn = [sweep.next()[0] for _ in range(3)]
    sweep.conclude(drawn[2], Outcome("finished", 0.9, 6))
    sweep = make(trials=4)  # the process of the other two was killed
    again = [sweep.next()[0] for _ in range(3)]
    assert [one.params for one in again[:2]] == [one.params for one in drawn[:2]]
    assert again[0].params["lr"] == 1e-3 and again[2].params != drawn[2].params
    assert sweep.next() is None


def test_the_key_that_decides_is_found_and_drawn(make):
    sweep = make()
    while following := sweep.next():
        one, config = following
        sweep.conclude(one, Outcome("finished", 0.9 - abs(config.lr - 3e-3), 6))
        if len(sweep.done()) == report.LEAST - 1:
            assert report.find_importance(sweep) == {}
    shares = report.find_importance(sweep)
    assert list(shares) == ["lr", "wd"] and shares["lr"] > 0.6 and sum(shares.values()) == pytest.approx(1)
    report.draw_importance(shares, SWEEP.results / "importance.png", "$caption$")
    assert (SWEEP.results / "importance.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("content", [b"no journal", b"\x80\x04K\x01.\n", b'[1]\n', b'{"op_code": 77}\n', b'{}\n'])
def test_a_journal_that_is_none_is_refused_and_stays(make, content):
    (SWEEP.results / JOURNAL).write_bytes(content)
    with pytest.raises(UserError, match="journal.jsonl is"):
        make()
    assert (SWEEP.results / JOURNAL).read_bytes() == content


def test_half_a_line_is_taken_off_a_journal(tmp_path):
    path, whole = tmp_path / JOURNAL, json.dumps({"op_code": 1}) + "\n"
    for content in (whole, whole + '{"op_'):
        path.write_text(content)
        mend(path)
        assert path.read_text() == whole


# --- side by side

def test_a_worker_that_is_killed_is_a_failed_trial_and_another_one_takes_its_place(monkeypatch):
    monkeypatch.setattr(workers, "_serve", dying.killed)
    left, heard, ended = [1, 2, 3], [], []

    def begin():
        return (Number(left.pop(0)), None) if left else None

    class Number(int):
        number = property(int)

    workers.run_workers(2, None, None, "macro_auc", begin, lambda *said: heard.append(said),
                        lambda number, outcome: ended.append((number, outcome)))
    assert sorted(heard) == [(1, 1, 0.5), (2, 1, 0.5), (3, 1, 0.5)]
    assert sorted(number for number, _ in ended) == [1, 2, 3]
    for _, outcome in ended:
        assert outcome.state == "failed" and "status -9 (killed by the system: probably out of memory" in outcome.reason
