"""A run that was stopped goes on to the very result that it would have had; what cannot go on says why."""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from filelock import FileLock

from busfast.cli import main
from busfast.models import fast_step
from busfast.training import callbacks, fit
from busfast.training.checkpoint import NAME, PREVIOUS
from busfast.training.runs import Run
from training.kills import differences

ROOT = Path(__file__).parents[2]
RUN = Run("phantom/stratified")
EPOCHS = "--epochs=4"


def train(*words) -> int:
    return main(["train", EPOCHS, *words])


@pytest.fixture
def stop():
    """Stops a training once, in the given epoch, after its log was written and before its checkpoint is."""
    patch = pytest.MonkeyPatch()

    def in_epoch(epoch):
        def after_epoch(self, own=callbacks.WarnCollapse.after_epoch):
            own(self)
            if self.epoch + 1 == epoch:
                patch.undo()
                raise KeyboardInterrupt
        patch.setattr(callbacks.WarnCollapse, "after_epoch", after_epoch)
    yield in_epoch
    patch.undo()


@pytest.fixture
def stopped(workdir, stop, capsys):
    """Makes a run of four epochs that is stopped in its third; returns what it said."""
    def words(*more):
        stop(3)
        assert train(*more) == 130
        return capsys.readouterr().out
    return words


def view(folder: Path, number: int) -> Path:
    """A folder with results and models of a run, as `differences` takes it."""
    made = folder / f"view-{number}"
    made.mkdir()
    for room in ("results", "models"):
        (made / room).symlink_to(folder / room / "phantom" / ("stratified" + (f"-{number}" if number > 1 else "")))
    return made


def test_a_stopped_run_says_how_to_go_on_and_ends_as_one_that_was_not_stopped(stopped, workdir, capsys):
    said = stopped("--seed=7")
    assert "interrupted after 3 epochs" in said
    assert "to continue: python -m busfast train --epochs=4 --seed=7 --resume\n" in said
    assert {path.name for path in RUN.models.iterdir()} == {"best.pth", NAME, PREVIOUS}
    assert train("--seed=7", "--resume") == 0
    said = capsys.readouterr().out
    assert "resume: phantom/stratified goes on after epoch 2 of 4" in said and "epoch 3/4" in said
    assert "epoch 2/4" not in said and "last bit" not in said
    assert train("--seed=7") == 0
    assert differences(view(workdir, 1), view(workdir, 2)) == []
    assert {path.name for path in RUN.models.iterdir()} == {"best.pth", "final.pth"}


def test_fastais_bar_on_a_terminal_goes_on_too(stopped, workdir, monkeypatch, capsys):
    monkeypatch.setattr(fit, "on_terminal", lambda: True)
    stopped()
    assert train("--resume") == 0
    assert "goes on after epoch 2 of 4" in capsys.readouterr().out
    assert pd.read_csv(RUN.results / "training_log.csv")["epoch"].tolist() == [1, 2, 3, 4]


def test_a_kill_before_the_checkpoints_are_removed_leaves_a_finished_run(workdir, monkeypatch, capsys):
    monkeypatch.setattr(fit, "remove_checkpoints", lambda folder: None)
    assert train() == 0
    assert (RUN.models / NAME).exists()
    assert train("--resume") == 0
    assert "is finished; nothing is left to do" in capsys.readouterr().out
    assert {path.name for path in RUN.models.iterdir()} == {"best.pth", "final.pth"}


def test_a_run_that_is_done_is_left_alone_and_what_follows_is_done(workdir, capsys):
    assert train("--epochs=1") == 2  # --epochs twice is refused
    assert train() == 0
    before = {path: path.stat().st_mtime_ns for path in Path("models").rglob("*.*")}
    capsys.readouterr()
    assert train("--resume", "--then=evaluate") == 0
    said = capsys.readouterr().out
    assert "phantom/stratified is finished; nothing is left to do" in said and "epoch 1/4" not in said
    assert {path: path.stat().st_mtime_ns for path in Path("models").rglob("*.*")} == before
    assert (RUN.results / "predictions.csv").is_file()


def test_without_a_run_a_new_one_begins(workdir, capsys):
    assert train("--resume") == 0
    assert "there is no run phantom/stratified yet, so a new one begins" in capsys.readouterr().out
    assert yaml.safe_load((RUN.results / "summary.yaml").read_text())["state"] == "finished"


def test_a_run_that_was_killed_before_it_began_is_begun_in_its_folders(workdir, capsys):
    RUN.results.mkdir(parents=True)
    (RUN.results / ".split.csv-abcd_123").write_text("cut sh")
    assert train("--resume") == 0
    assert "was stopped before it began" in capsys.readouterr().out
    assert not list(RUN.results.glob(".*")) and not Path("results/phantom/stratified-2").exists()


def test_another_configuration_is_refused_with_both_values_and_the_way_out(stopped, workdir, capsys):
    stopped()
    assert train("--lr=0.01", "--rotate=3", "--resume") == 2  # no such flag
    assert train("--lr=0.01", "--seed=1", "--threads=1", "--cache=off", "--resume") == 2
    said = capsys.readouterr().err
    assert "lr is 0.001 there and 0.01 here; seed is 42 there and 1 here. Go on with its own" in said
    assert f"--pipeline={RUN.results}/config.yaml --split=stratified --resume" in said
    assert main(["train", f"--pipeline={RUN.results}/config.yaml", "--split=stratified", "--resume"]) == 0


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def test_a_damaged_checkpoint_falls_back_to_the_one_before(stopped, workdir, capsys):
    stopped()
    cut(RUN.models / NAME)
    assert train("--resume") == 0
    said = capsys.readouterr().out
    assert "is damaged: its checksum does not match; continuing from the previous one" in said
    assert "goes on after epoch 1 of 4" in said
    assert train() == 0
    assert differences(view(workdir, 1), view(workdir, 2)) == []


def test_with_both_checkpoints_damaged_it_begins_again(stopped, workdir, capsys):
    stopped()
    cut(RUN.models / NAME), cut(RUN.models / PREVIOUS)
    assert train("--resume") == 0
    assert "phantom/stratified has no checkpoint, so it begins again" in capsys.readouterr().out
    assert train() == 0
    assert differences(view(workdir, 1), view(workdir, 2)) == []


def test_a_run_whose_checkpoints_were_taken_away_keeps_its_weights(stopped, workdir, capsys):
    stopped()
    (RUN.models / NAME).unlink(), (RUN.models / PREVIOUS).unlink()
    best = (RUN.models / "best.pth").read_bytes()
    assert train("--resume") == 2
    assert "has a log of several epochs but no checkpoint" in capsys.readouterr().err
    assert (RUN.models / "best.pth").read_bytes() == best


def test_images_that_changed_are_refused(workdir, phantom_folder, tmp_path, stop, capsys):
    shutil.copytree(phantom_folder, tmp_path / "own")
    stop(3)
    assert train("--data=own", "--pipeline=phantom") == 130
    split = pd.read_csv(RUN.results / "split.csv")
    one, other = split["image"][split["part"] == "train"].iloc[:2]
    shutil.copy(tmp_path / "own" / one, tmp_path / "own" / other)
    assert train("--data=own", "--pipeline=phantom", "--resume") == 2
    assert "changed since it was trained" in capsys.readouterr().err


def test_what_may_change_the_last_bit_is_said(stopped, workdir, capsys):
    stopped()
    config = RUN.results / "config.yaml"
    config.write_text(re.sub(r"( +torch:) .*", r"\1 2.0.0", config.read_text()))
    assert train("--resume") == 0
    assert "not be the same to the last bit as without a stop: torch 2.0.0 is now" in capsys.readouterr().out


def test_each_fold_goes_on_or_is_left_alone_in_turn(workdir, stop, capsys):
    words = ["--split=kfold", "--folds=2"]
    stop(2)
    assert train(*words) == 130
    assert train(*words, "--fold=2") == 0
    capsys.readouterr()
    assert train(*words, "--resume") == 0
    said = capsys.readouterr().out
    assert "kfold-1of2 goes on after epoch 1 of 4" in said and "kfold-2of2 is finished" in said
    assert sorted(os.listdir("results/phantom")) == ["kfold-1of2", "kfold-2of2"]


def test_two_processes_cannot_train_one_run(stopped, workdir, capsys):
    stopped()
    with FileLock(RUN.models / ".lock"):
        assert train("--resume") == 2
    assert "phantom/stratified is being trained by another process" in capsys.readouterr().err
    assert (RUN.models / NAME).is_file()


def test_weights_that_training_did_not_write_are_refused(workdir, capsys):
    assert train() == 0
    sums = yaml.safe_load((RUN.results / "summary.yaml").read_text())["sha256"]
    assert set(sums) == {"best.pth", "final.pth", "training_log.csv", "split.csv"}
    shutil.copy(RUN.models / "final.pth", RUN.models / "best.pth")
    if sums["best.pth"] != sums["final.pth"]:
        for verb in ("evaluate", "export"):
            assert main([verb, "--run=phantom/stratified"]) == 2
            assert "is not the file that phantom/stratified was trained to" in capsys.readouterr().err


def test_what_the_best_epoch_said_of_the_validation_part_is_written(workdir):
    assert train() == 0
    said, split = pd.read_csv(RUN.results / "valid_predictions.csv"), pd.read_csv(RUN.results / "split.csv")
    classes = ["normal", "benign", "malignant"]
    assert list(said) == ["image", "label", "predicted", *(f"p_{name}" for name in classes)]
    assert said["image"].tolist() == split["image"][split["part"] == "valid"].tolist()
    shares = said[[f"p_{name}" for name in classes]].to_numpy()
    assert shares.sum(axis=1) == pytest.approx(1) and [classes[index] for index in shares.argmax(1)] == (
        said["predicted"].tolist())
    log = pd.read_csv(RUN.results / "training_log.csv")
    best = yaml.safe_load((RUN.results / "summary.yaml").read_text())["best_epoch"]
    assert (said["predicted"] == said["label"]).mean() == pytest.approx(log["val_acc"][best - 1], abs=1e-5)


@pytest.mark.parametrize("loader", ["dali", "torchvision"])
@pytest.mark.parametrize("damage", ["vanishes", "is cut short"])
def test_an_image_that_goes_in_the_middle_is_named_and_the_run_goes_on_when_it_is_back(
        workdir, phantom_folder, tmp_path, capsys, loader, damage):
    if loader == "dali":
        pytest.importorskip("nvidia.dali")
    shutil.copytree(phantom_folder, tmp_path / "own")
    words = ["--data=own", "--pipeline=phantom", "--cache=off", f"--loader={loader}"]
    lost = []

    def after_epoch(self, own=callbacks.WarnCollapse.after_epoch):
        own(self)
        if self.epoch == 1:
            path = Path(self.dls.train_ds.items["image"].iloc[0])
            lost.append((path, path.read_bytes()))
            if damage == "vanishes":
                path.unlink()
            else:
                path.write_bytes(lost[0][1][:len(lost[0][1]) // 2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks.WarnCollapse, "after_epoch", after_epoch)
        assert train(*words) == 2
    said = capsys.readouterr()
    path, data = lost[0]
    assert f"busfast: The image {path} cannot be read: " in said.err and "Restore the file." in said.err
    assert "failed after 2 epochs" in said.out and "--resume" in said.out
    path.write_bytes(data)
    assert train(*words, "--resume") == 0
    assert train(*words) == 0
    assert differences(view(workdir, 1), view(workdir, 2)) == []


def test_a_full_disk_ends_it_with_the_last_good_state_and_it_goes_on(workdir, capsys):
    resource = pytest.importorskip("resource")
    old, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (800_000, limits[1]))  # best.pth fits, a checkpoint does not
    try:
        assert train() == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, old)
    assert "Cannot write models/phantom/stratified/checkpoint.pt: " in capsys.readouterr().err
    assert {path.name for path in RUN.models.iterdir()} == {"best.pth"}
    assert train("--resume") == 0


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
                                   MemoryError()])
def test_out_of_memory_names_a_batch_size_that_fits(workdir, monkeypatch, capsys, error):
    def fail(self):
        raise error
    monkeypatch.setattr(fast_step.InferenceLearner, "_do_one_batch", fail)
    assert train("--bs=16") == 2
    said = capsys.readouterr()
    assert "Out of memory with --bs=16" in said.err and "A new run with --bs=8 should fit" in said.err
    assert "--resume" not in said.out


def test_the_batch_size_that_was_chosen_is_recorded_and_kept(stopped, workdir, capsys):
    said = stopped("--bs=auto")
    assert "bs: 16 (auto: from the pipeline" in said and "--bs=auto --resume" in said
    config = RUN.results / "config.yaml"
    assert yaml.safe_load(config.read_text())["bs"] == 16
    config.write_text(config.read_text().replace("bs: 16", "bs: 8"))  # as chosen on another day
    assert train("--bs=auto", "--resume") == 0
    assert "bs: " not in capsys.readouterr().out


def begin(workdir, *words):
    """Starts a real training and waits until it has a checkpoint."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-m", "busfast", "train", *words], env=environment, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               # Where the tests run in the background, a shell may have had SIGINT ignored.
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    until = time.monotonic() + 120
    while not (RUN.models / NAME).exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    return process


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_with_its_usual_status_and_the_way_on(workdir, number, status):
    process = begin(workdir, "--epochs=500", "--patience=500")
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    assert "python -m busfast train --epochs=500 --patience=500 --resume" in out
    assert not (RUN.models / ".lock").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_killed_at_any_moment_it_ends_as_one_that_was_never_stopped(tmp_path):
    """By hand, many more: python tests/training/kills.py --kills=200 --folder=/tmp/kills"""
    loaders = "dali,torchvision" if importlib.util.find_spec("nvidia.dali") else "torchvision"
    done = subprocess.run([sys.executable, Path(__file__).parent / "kills.py", "--kills=6", f"--loaders={loaders}",
                           f"--folder={tmp_path}"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "early, torchvision: stopped early" in done.stdout and "stages, torchvision: finished" in done.stdout
