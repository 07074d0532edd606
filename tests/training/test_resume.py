"""A run that was stopped is resumed to the very result that it would have had; what cannot be resumed says why.

Covers busfast/training/fit.py, busfast/training/resume.py and busfast/training/training_state.py.
"""

import importlib.util
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from conftest import write_pipeline
from filelock import FileLock

from busfast.cli import main
from busfast.models import fast_step
from busfast.training import callbacks, fit
from busfast.training.checkpoint import NAME, PREVIOUS, read_checkpoint, write_checkpoint
from busfast.training.resume import warn_if_not_reproducible
from busfast.training.runs import Run
from training import forks
from training.kills import differences, view

RUN = Run("phantom/stratified")
FLAGS = ["--epochs=3", "--seed=7"]  # of the runs that the tests share
DALI = importlib.util.find_spec("nvidia.dali") is not None


def train(*flags) -> int:
    return main(["train", *FLAGS, *flags])


@pytest.fixture
def stop():
    """Stops a training once, in the given epoch, after its log was written and before its checkpoint is."""
    with pytest.MonkeyPatch.context() as patch:
        yield lambda epoch: stop_in(epoch, patch)


def stop_in(epoch, patch):
    def after_epoch(self, own=callbacks.WarnCollapse.after_epoch):
        own(self)
        if self.epoch + 1 == epoch:
            patch.undo()
            raise KeyboardInterrupt
    patch.setattr(callbacks.WarnCollapse, "after_epoch", after_epoch)


def make_run(folder, phantom_folder, *flags, status=0):
    """Trains in a new folder with images of its own; the output is in output.txt."""
    shutil.copytree(phantom_folder, folder / "data")
    write_pipeline(folder, "data")
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output):
        patch.chdir(folder)
        assert train("--pipeline=phantom", *flags) == status
    (folder / "output.txt").write_text(output.getvalue())
    return folder


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory, phantom_folder):
    """A folder with a run that was never stopped; --resume made no difference."""
    return make_run(tmp_path_factory.mktemp("finished"), phantom_folder, "--resume")


@pytest.fixture(scope="module")
def finished_with_dali(tmp_path_factory, phantom_folder):
    return make_run(tmp_path_factory.mktemp("dali"), phantom_folder, "--loader=dali", "--cache=off")


@pytest.fixture(scope="module")
def finished_with_torchvision(tmp_path_factory, phantom_folder):
    return make_run(tmp_path_factory.mktemp("torchvision"), phantom_folder, "--loader=torchvision", "--cache=off")


@pytest.fixture(scope="module")
def stopped_once(tmp_path_factory, phantom_folder):
    """A folder with the same run, stopped in its third epoch."""
    with pytest.MonkeyPatch.context() as patch:
        stop_in(3, patch)
        return make_run(tmp_path_factory.mktemp("stopped"), phantom_folder, status=130)


@pytest.fixture
def finished(finished_once, tmp_path, monkeypatch):
    """A copy of the finished run's folder, to work in."""
    return copy_to_work_in(finished_once, tmp_path, monkeypatch)


@pytest.fixture
def stopped(stopped_once, tmp_path, monkeypatch):
    """A copy of the stopped run's folder, to work in."""
    return copy_to_work_in(stopped_once, tmp_path, monkeypatch)


def copy_to_work_in(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(shutil.copytree(folder, tmp_path / "work"))
    return tmp_path / "work"


def from_finished(folder, finished) -> list[str]:
    """What differs between the runs of two folders."""
    views = finished / "views" / "phantom-1"
    return differences(views if views.exists() else view(finished, "phantom", 1), view(folder, "phantom", 1))


def test_a_stopped_run_says_how_to_go_on_and_ends_as_one_that_was_not_stopped(stopped, finished_once, capsys):
    out = Path("output.txt").read_text()
    assert "interrupted after 3 epochs" in out
    assert "to continue: python -m busfast train --pipeline=phantom --epochs=3 --seed=7 --resume\n" in out
    assert {path.name for path in RUN.models.iterdir()} == {"best.pth", NAME, PREVIOUS}
    assert train("--resume") == 0
    out = capsys.readouterr().out
    assert "resume: phantom/stratified continues after epoch 2 of 3" in out and "epoch 3/3" in out
    assert "epoch 2/3" not in out and "last bits" not in out
    assert from_finished(stopped, finished_once) == []
    assert {path.name for path in RUN.models.iterdir()} == {"best.pth", "final.pth"}


@pytest.mark.parametrize(("more", "opt"), [
    (["--mixup=0.4"], "adamw"), (["--cutmix=1"], "sgd"),
    (["--ema=0.9", "--augment=strong", "--accumulate=3", "--clip=1", "--lr_mult=5", "--tta=flip"], "lion")])
def test_other_recipes_go_on_to_the_same_bits(tmp_path, phantom_folder, more, opt):
    flags = [*more, "--schedule=one_cycle", f"--opt={opt}", "--label_smoothing=0.1"]
    whole = make_run(tmp_path / "whole", phantom_folder, *flags)
    with pytest.MonkeyPatch.context() as patch:
        stop_in(3, patch)
        stopped = make_run(tmp_path / "stopped", phantom_folder, *flags, status=130)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(stopped)
        assert train(*flags, "--resume") == 0
        assert train("--resume") == 2  # another recipe
    assert from_finished(stopped, whole) == []
    rates = pd.read_csv(stopped / RUN.results / "training_log.csv")["lr"]
    assert rates.iloc[0] > rates.iloc[1] > rates.iloc[2]
    record = yaml.safe_load((stopped / RUN.results / "config.yaml").read_text())
    assert (record["opt"], record["schedule"], record["label_smoothing"]) == (opt, "one_cycle", 0.1)
    assert f"opt {opt}, schedule one_cycle, " in (stopped / "output.txt").read_text()


def test_the_table_on_a_terminal_goes_on_too(stopped, monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert train("--resume") == 0
    assert "continues after epoch 2 of 3" in capsys.readouterr().out
    assert pd.read_csv(RUN.results / "training_log.csv")["epoch"].tolist() == [1, 2, 3]


def test_a_kill_before_the_checkpoints_are_removed_leaves_a_finished_run(stopped, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(fit, "remove_checkpoints", lambda folder: None)
        assert train("--resume") == 0
    assert (RUN.models / NAME).exists()
    (RUN.models / ".lock").touch()
    assert train("--resume") == 0
    assert "is finished; nothing is left to do" in capsys.readouterr().out
    assert {path.name for path in RUN.models.iterdir()} == {"best.pth", "final.pth"}


def test_a_run_that_is_done_is_left_alone_and_what_follows_is_done(finished, capsys):
    assert train("--epochs=1") == 2  # --epochs twice is refused
    before = {path: path.stat().st_mtime_ns for path in Path("models").rglob("*.*")}
    assert train("--resume", "--then=evaluate") == 0
    out = capsys.readouterr().out
    assert "phantom/stratified is finished; nothing is left to do\n" in out and "epoch 1/3" not in out
    assert {path: path.stat().st_mtime_ns for path in Path("models").rglob("*.*")} == before
    assert (RUN.results / "predictions.csv").is_file()


def test_after_a_run_that_is_done_the_first_verb_that_it_has_no_files_of_is_next(finished, capsys):
    for verb in ("evaluate", "explain", "report", "export"):
        assert train("--resume") == 0
        assert capsys.readouterr().out.endswith(f"\nNext: python -m busfast {verb} --run={RUN.name}\n")
        assert main([verb, f"--run={RUN.name}"]) == 0
        following = capsys.readouterr().out.rpartition("\nNext: ")[2]
    assert train("--resume") == 0
    assert capsys.readouterr().out.endswith(f"\nNext: {following}") and f"--model={RUN.models}/bundle" in following


def test_a_run_says_that_it_keeps_its_images_where_the_table_or_the_lists_have_changed(finished, capsys):
    rows = pd.read_csv(RUN.results / "split.csv", dtype=str, keep_default_na=False)
    rows.iloc[1:].to_csv(RUN.results / "split.csv", index=False)  # as if the table had one row more by now
    assert train("--resume") == 0
    assert "nothing is left to do. WARNING: the table or the lists have changed since" in capsys.readouterr().out


def test_without_a_run_a_new_one_begins(finished):
    assert "there is no run phantom/stratified yet; a new one starts" in Path("output.txt").read_text()
    assert yaml.safe_load((RUN.results / "summary.yaml").read_text())["state"] == "finished"


def test_a_run_that_was_killed_before_it_began_is_begun_in_its_folders(workdir, capsys):
    RUN.results.mkdir(parents=True)
    (RUN.results / ".split.csv-abcd_123").write_text("cut sh")
    assert main(["train", "--epochs=1", "--resume"]) == 0
    assert "was stopped before its first epoch" in capsys.readouterr().out
    assert not list(RUN.results.glob(".*")) and not Path("results/phantom/stratified-2").exists()


def test_another_number_of_threads_is_said_when_a_run_goes_on(capsys):
    warn_if_not_reproducible({"versions": {}}, {"versions": {}, "threads": 2})  # an older busfast did not record it
    assert capsys.readouterr().out == ""
    warn_if_not_reproducible({"versions": {}, "threads": 2}, {"versions": {}, "threads": 1})
    assert "may differ from an uninterrupted run: threads 2 is now 1" in capsys.readouterr().out


def test_another_configuration_is_refused_with_both_values_and_the_way_out(stopped, capsys):
    assert train("--lr=0.01", "--rotate=3", "--resume") == 2  # no such flag
    assert main(["train", "--epochs=3", "--lr=0.01", "--seed=1", "--threads=1", "--cache=off", "--resume"]) == 2
    err = capsys.readouterr().err
    assert "lr is 0.001 there and 0.01 here; seed is 7 there and 1 here. Use its own" in err
    assert f"--pipeline={RUN.results}/config.yaml --split=stratified --resume" in err
    assert main(["train", f"--pipeline={RUN.results}/config.yaml", "--split=stratified", "--resume"]) == 0


def test_more_epochs_after_the_end_are_a_new_run_from_its_weights(finished, capsys):
    assert main(["train", "--epochs=4", "--seed=7", "--resume"]) == 2
    command = capsys.readouterr().err.split("learning rate falls anew: ")[1].strip()
    assert command.endswith(f"--weights={RUN.models}/best.pth --epochs=1") and "--resume" not in command
    split = (RUN.results / "split.csv").read_text()
    assert main(command.split()[3:]) == 0
    assert f"; file {RUN.models}/best.pth\n" in capsys.readouterr().out
    assert Path("results/phantom/stratified-2/split.csv").read_text() == split  # no test image has trained it before


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def test_a_damaged_checkpoint_falls_back_to_the_one_before(stopped, finished_once, capsys):
    cut(RUN.models / NAME)
    assert train("--resume") == 0
    out = capsys.readouterr().out
    assert "is damaged: its checksum does not match; continuing from the previous one" in out
    assert "continues after epoch 1 of 3" in out
    assert from_finished(stopped, finished_once) == []


def test_with_both_checkpoints_damaged_it_begins_again(stopped, finished_once, capsys):
    cut(RUN.models / NAME), cut(RUN.models / PREVIOUS)
    assert train("--resume") == 0
    assert "phantom/stratified has no checkpoint; it starts again" in capsys.readouterr().out
    assert from_finished(stopped, finished_once) == []


def test_a_run_whose_checkpoints_were_taken_away_keeps_its_weights(stopped, capsys):
    (RUN.models / NAME).unlink(), (RUN.models / PREVIOUS).unlink()
    best = (RUN.models / "best.pth").read_bytes()
    assert train("--resume") == 2
    assert "has a log of several epochs but no checkpoint" in capsys.readouterr().err
    assert (RUN.models / "best.pth").read_bytes() == best


def test_images_that_changed_are_refused(stopped, capsys):
    split = pd.read_csv(RUN.results / "split.csv")
    one, other = split["image"][split["part"] == "train"].iloc[:2]
    shutil.copy(Path("data") / one, Path("data") / other)
    assert train("--resume") == 2
    assert "changed since it was trained" in capsys.readouterr().err


def test_a_checkpoint_of_an_optimizer_with_other_groups_is_refused(stopped, capsys):
    path = RUN.models / NAME
    state = read_checkpoint(path)
    state["optimizer"]["param_groups"] = state["optimizer"]["param_groups"][:2]  # as version 0.1 had them
    write_checkpoint(path, state)
    assert train("--resume") == 2
    assert "is of another version of busfast" in capsys.readouterr().err


def test_what_may_change_the_last_bit_is_said(stopped, capsys):
    config = RUN.results / "config.yaml"
    config.write_text(re.sub(r"( +torch:) .*", r"\1 2.0.0", config.read_text()))
    assert train("--resume") == 0
    assert "last bits of the result may differ from an uninterrupted run: torch 2.0.0 is now" in capsys.readouterr().out


def test_each_fold_goes_on_or_is_left_alone_in_turn(workdir, stop, capsys):
    command = ["train", "--epochs=2", "--split=kfold", "--folds=2"]
    stop(2)
    assert main(command) == 130
    assert main([*command, "--fold=2"]) == 0
    capsys.readouterr()
    assert main([*command, "--resume"]) == 0
    out = capsys.readouterr().out
    assert "kfold-1of2 continues after epoch 1 of 2" in out and "kfold-2of2 is finished" in out
    assert sorted(os.listdir("results/phantom")) == ["kfold-1of2", "kfold-2of2"]


def test_two_processes_cannot_train_one_run(stopped, capsys):
    with FileLock(RUN.models / ".lock"):
        assert train("--resume") == 2
    assert "phantom/stratified is being trained by another process" in capsys.readouterr().err
    assert (RUN.models / NAME).is_file()


@pytest.mark.parametrize("verb", ["evaluate", "explain", "report", "export", "predict"])
def test_a_run_that_another_process_trains_is_not_used_until_it_ends(stopped, verb, capsys):
    with FileLock(RUN.models / ".lock"):
        assert main([verb, f"--run={RUN.name}", *(["data/images"] if verb == "predict" else [])]) == 2
    assert f"{RUN.name} is still training, in another process. Wait for its end." in capsys.readouterr().err
    assert not (RUN.results / "evaluation.yaml").exists()


def test_a_run_that_was_interrupted_is_scored_but_said_to_be_unfinished(stopped, capsys):
    (RUN.models / ".lock").touch()  # as a killed process leaves it
    ended = (f"Training was interrupted after 3 of 3 epochs; these are the weights of its best epoch so far. To go on: "
             f"python -m busfast train --pipeline={RUN.results}/config.yaml --split=stratified --resume")
    assert main(["evaluate", f"--run={RUN.name}"]) == 0
    assert capsys.readouterr().out.startswith(f"{RUN.name}: {ended}\n")
    assert main(["report", f"--run={RUN.name}"]) == 0
    for name in ("report.html", "model_card.md"):
        assert (RUN.results / name).read_text().count(ended) == 1
    capsys.readouterr()
    assert main(ended.partition(" -m busfast ")[2].split()) == 0
    assert main(["evaluate", f"--run={RUN.name}"]) == 0
    assert "epochs; these are" not in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["report", "explain"])
def test_scores_of_weights_that_were_trained_further_are_not_reported(stopped, verb, capsys):
    best = RUN.models / "best.pth"
    own = best.read_bytes()
    assert main(["evaluate", f"--run={RUN.name}"]) == 0
    torch.save({key: value + 1 for key, value in torch.load(best, weights_only=True).items()}, best)
    assert main([verb, f"--run={RUN.name}"]) == 2
    error = capsys.readouterr().err
    assert f"{best} has changed since {RUN.name} was scored" in error
    assert f"Score these first: python -m busfast evaluate --run={RUN.name}\n" in error
    assert not (RUN.results / "report.html").exists()
    best.write_bytes(own)  # with the weights that were scored, all is well
    assert main([verb, f"--run={RUN.name}"]) == 0


def test_weights_that_training_did_not_write_are_refused(finished, capsys):
    sums = yaml.safe_load((RUN.results / "summary.yaml").read_text())["sha256"]
    assert set(sums) == {"best.pth", "final.pth", "training_log.csv", "split.csv"}
    shutil.copy(RUN.models / "final.pth", RUN.models / "best.pth")
    if sums["best.pth"] != sums["final.pth"]:
        for verb in ("evaluate", "export"):
            assert main([verb, "--run=phantom/stratified"]) == 2
            assert "is not the file that phantom/stratified was trained to" in capsys.readouterr().err


def test_the_validation_predictions_of_the_best_epoch_are_written(finished):
    table, split = pd.read_csv(RUN.results / "valid_predictions.csv"), pd.read_csv(RUN.results / "split.csv")
    classes = ["normal", "benign", "malignant"]
    assert list(table) == ["image", "label", "predicted", *(f"p_{name}" for name in classes)]
    assert table["image"].tolist() == split["image"][split["part"] == "valid"].tolist()
    shares = table[[f"p_{name}" for name in classes]].to_numpy()
    assert shares.sum(axis=1) == pytest.approx(1) and [classes[index] for index in shares.argmax(1)] == (
        table["predicted"].tolist())
    log = pd.read_csv(RUN.results / "training_log.csv")
    best = yaml.safe_load((RUN.results / "summary.yaml").read_text())["best_epoch"]
    assert (table["predicted"] == table["label"]).mean() == pytest.approx(log["val_acc"][best - 1], abs=1e-5)


@pytest.mark.parametrize("loader", ["dali", "torchvision"])
@pytest.mark.parametrize("damage", ["vanishes", "is cut short"])
def test_an_image_that_goes_in_the_middle_is_named_and_the_run_goes_on_when_it_is_back(
        request, tmp_path, monkeypatch, phantom_folder, capsys, loader, damage):
    if loader == "dali":
        pytest.importorskip("nvidia.dali")
    finished = request.getfixturevalue(f"finished_with_{loader}")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(phantom_folder, "data"), write_pipeline(tmp_path, "data")
    flags = ["--pipeline=phantom", "--cache=off", f"--loader={loader}"]
    lost = []

    def after_epoch(self, own=callbacks.WarnCollapse.after_epoch):
        own(self)
        if self.epoch == 0:
            path = Path(self.dls.train_ds.items["image"].iloc[0])
            lost.append((path, path.read_bytes()))
            if damage == "vanishes":
                path.unlink()
            else:
                path.write_bytes(lost[0][1][:len(lost[0][1]) // 2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks.WarnCollapse, "after_epoch", after_epoch)
        assert train(*flags) == 2
    printed = capsys.readouterr()
    path, data = lost[0]
    assert f"busfast: The image {path} cannot be read: " in printed.err and "Restore the file." in printed.err
    assert "failed after 1 epoch;" in printed.out and "--resume" in printed.out
    path.write_bytes(data)
    assert train(*flags, "--resume") == 0
    assert from_finished(tmp_path, finished) == []


def test_a_full_disk_ends_it_with_the_last_good_state_and_it_goes_on(workdir, capsys):
    resource = pytest.importorskip("resource")
    old, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (800_000, limits[1]))  # best.pth fits, a checkpoint does not
    try:
        assert main(["train", "--epochs=1"]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, old)
    assert "Cannot write models/phantom/stratified/checkpoint.pt: " in capsys.readouterr().err
    assert {path.name for path in RUN.models.iterdir()} == {"best.pth"}
    assert main(["train", "--epochs=1", "--resume"]) == 0


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
                                   MemoryError()])
def test_out_of_memory_names_a_batch_size_that_fits(workdir, monkeypatch, capsys, error):
    def fail(self):
        raise error
    monkeypatch.setattr(fast_step.FastLearner, "_do_one_batch", fail)
    assert train("--bs=16") == 2
    printed = capsys.readouterr()
    assert "Out of memory with --bs=16" in printed.err and "A new run with --bs=8 should fit" in printed.err
    assert "--resume" not in printed.out


def test_the_batch_size_that_was_chosen_is_recorded_and_kept(workdir, stop, capsys):
    command = ["train", "--epochs=2", "--bs=auto"]
    stop(2)
    assert main(command) == 130
    out = capsys.readouterr().out
    assert "bs: 16 (auto: from the pipeline" in out and "--bs=auto --resume" in out
    config = RUN.results / "config.yaml"
    assert yaml.safe_load(config.read_text())["bs"] == 16
    config.write_text(config.read_text().replace("bs: 16", "bs: 8"))  # as chosen on another day
    assert main([*command, "--resume"]) == 0
    assert "bs: " not in capsys.readouterr().out


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_with_its_usual_status_and_the_way_on(workdir, number, status):
    process = forks.start(["train", "--epochs=500", "--patience=500"])
    until = time.monotonic() + 120
    while not (RUN.models / NAME).exists() and process.is_alive() and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == status, Path("fork.err").read_text()
    assert "python -m busfast train --epochs=500 --patience=500 --resume" in Path("fork.out").read_text()
    assert not (RUN.models / ".lock").exists()


def test_killed_at_any_moment_it_ends_as_one_that_was_never_stopped(tmp_path):
    """Six kills; 60 of `python -m busfast` itself and 200 forked ones are `pytest -m nightly`."""
    loader = "dali" if DALI else "torchvision"
    done = kill("--kills=6", f"--scenarios=early:torchvision,stages:{loader}", f"--folder={tmp_path}")
    assert "early, torchvision: stopped early" in done.stdout and f"stages, {loader}: finished" in done.stdout


@pytest.mark.nightly
@pytest.mark.parametrize("flags", [["--kills=200"], ["--kills=60", "--real"]])
def test_killed_hundreds_of_times_it_ends_as_one_that_was_never_stopped(tmp_path, flags):
    loaders = ("dali", "torchvision") if DALI else ("torchvision",)
    scenarios = ",".join(f"{name}:{loader}" for name in ("early", "stages") for loader in loaders)
    kill(*flags, f"--scenarios={scenarios}", f"--folder={tmp_path}")


def kill(*flags):
    done = subprocess.run([sys.executable, Path(__file__).parent / "kills.py", *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done
