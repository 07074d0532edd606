"""A sweep: what it refuses, that it resumes where it was stopped, and never sees the test part.

Covers busfast/sweep/run.py, busfast/sweep/request.py and busfast/sweep/trial.py.
"""

import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from conftest import write_pipeline

from busfast.cli import main
from busfast.errors import UserError
from busfast.pipelines.config import Config
from busfast.sweep import trial
from busfast.sweep.request import read_request
from busfast.sweep.run import check_models
from busfast.sweep.space import ends
from busfast.sweep.study import JOURNAL, Sweep
from busfast.sweep.trial import TrialPruning
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


def test_the_output_of_a_trial_can_be_followed_while_it_trains(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    SWEEP.results.mkdir(parents=True)
    seen = []

    def train_run(*_):
        print("an epoch")
        seen.extend(file.read_text() for file in SWEEP.results.glob("trial-*.txt"))
        raise UserError("enough")

    monkeypatch.setattr(trial, "train_run", train_run)
    assert trial.train_trial(SWEEP, 0, Config(data="x"), None, "macro_auc", lambda *_: False).reason == "enough"
    assert seen == ["an epoch\n"]


def test_models_without_pretrained_weights_are_left_out_or_refused_where_others_have_them(capsys):
    config = Config(data="x", device="cpu", loader="torchvision")
    request = check_models(read_request(config, "arch", 2, 1, "macro_auc", "none"), "arch")
    assert ends(request.space["arch"]) == ("efficientnet_b0", "tf_efficientnet_lite0")
    assert "mobilenetv3_large_100, resnet18 left out: would start from random" in capsys.readouterr().out
    named = "arch=resnet18/efficientnet_b0"
    with pytest.raises(UserError, match="pretrained with random weights: resnet18 would start from random weights"):
        check_models(read_request(config, named, 2, 1, "macro_auc", "none"), named)


@pytest.mark.parametrize(("words", "message"), [
    ("--params=lrr", "Unknown key of --params 'lrr'"),
    ("--trials=0", "trials=0 is out of range"),
    ("--jobs=1000", "of this machine"),
    ("--objective=auc", "Unknown objective 'auc'"),
    ("--pruner=mean", "Unknown pruner 'mean'. Did you mean 'median'?"),
    ("--params=freeze=0/50", "freeze=50"),
    ("--params=arch=resnet18/resnet19", "Unknown model 'resnet19'. Did you mean 'resnet18'?"),
    ("--params=arch --weights=pipelines/phantom.yaml", "fits one model only, so arch cannot be varied"),
    ("--split=all", "Unknown split 'all'"),
])
def test_a_wrong_line_is_refused_and_changes_nothing(workdir, words, message, capsys):
    before = files(workdir)
    assert main(["sweep", *words.split()]) == 2
    assert message in capsys.readouterr().err
    assert files(workdir) == before


def test_without_optuna_the_way_to_it_is_told(workdir, monkeypatch, capsys):
    monkeypatch.setattr("busfast.imports.find_spec", lambda name: None)
    assert main(["sweep"]) == 2
    assert "pip install optuna" in capsys.readouterr().err


def test_a_sweep_begins_with_the_pipelines_own_values_and_keeps_the_best(swept, monkeypatch):
    monkeypatch.chdir(swept)
    rows, said = table(), (swept / "said.txt").read_text()
    assert list(rows) == ["trial", "state", "lr", "augment", "macro_auc", "epoch", "minutes", "reason"]
    assert rows["state"].tolist() == ["finished"] * 3 and rows["lr"].nunique() == 3
    assert (rows["lr"][0], rows["augment"][0]) == (1e-3, "light")
    best = rows.loc[rows["macro_auc"].idxmax()]
    for row in rows.itertuples():
        log = pd.read_csv(SWEEP.results / f"trial-{row.trial:03}" / "training_log.csv")
        assert row.epoch == log["epoch"][log["val_loss"].idxmin()]  # the monitor's epoch ...
        assert row.macro_auc == pytest.approx(log["macro_auc"][row.epoch - 1])  # ... and the objective there
    assert files(SWEEP.models) == {f"trial-{best.trial:03}/best.pth", f"trial-{best.trial:03}/final.pth"}
    assert {"history.png", "split.csv", "best.yaml"} < files(SWEEP.results)
    assert f"best: trial {best.trial}, macro_auc {best.macro_auc:.3f} (validation)" in said
    assert "[3/3] trial 2: lr " in said and "[1/3] trial 0: lr 0.001  augment light | macro_auc " in said
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
        def stop(self, own=TrialPruning.after_epoch):
            own(self)
            if len(list(SWEEP.results.glob("trial-*"))) == 4 and self.epoch == 1:  # folder and text of two trials
                raise KeyboardInterrupt
        patch.setattr(TrialPruning, "after_epoch", stop)
        assert main(WORDS) == 130
    said, after = capsys.readouterr()
    assert "interrupted: 1 of 3 trials done" in said and "busfast: interrupted" not in after
    assert "to continue: python -m busfast sweep --params=lr,augment --trials=3 --resume\n" in said
    assert table()["state"].tolist() == ["finished", "interrupted"]
    assert not [name for name in files(".") if "trial-001" in name]
    with open(SWEEP.results / JOURNAL, "a") as file:
        file.write('{"op_code": 4, "work')  # a kill in the middle of a line
    assert main([*WORDS, "--resume"]) == 0
    assert "resume: phantom/sweep-stratified: 1 of 3 trials done" in capsys.readouterr().out
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
    assert "epochs was 2 and is now 1; " in said
    assert "augment light, none, standard or strong and is now lr 1e-05" in said
    assert {name: (copied / name).read_bytes() for name in files(".")} == before
    monkeypatch.setattr(trial, "train_run", lambda *args, **kwargs: 1 / 0)
    assert main([*WORDS[:2], "--trials=1"]) == 0
    assert {name: (copied / name).read_bytes() for name in before} == before
    assert table(Run("phantom/sweep-stratified-2"))["reason"].tolist() == ["division by zero"]


def test_images_that_changed_and_a_journal_that_is_gone_are_refused(copied, capsys):
    text = (SWEEP.results / "split.csv").read_text()
    (SWEEP.results / "split.csv").write_text(text.replace(",valid,", ",train,", 1))
    assert main([*WORDS, "--resume"]) == 2
    assert "differ from those that phantom/sweep-stratified was begun with" in capsys.readouterr().err
    (SWEEP.results / JOURNAL).unlink()
    assert main([*WORDS, "--resume"]) == 2
    assert "journal.jsonl is missing. Restore it, or leave out --resume to begin a new sweep" in capsys.readouterr().err


def test_what_is_pruned_or_fails_is_written_down_and_the_sweep_goes_on(workdir, monkeypatch, capsys):
    def report(self, one, epoch, value, own=Sweep.report):
        return own(self, one, epoch, value) or one.number == 1

    monkeypatch.setattr(Sweep, "report", report)

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


