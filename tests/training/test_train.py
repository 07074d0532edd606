"""The main job as the user runs it: one command, and the files of a run.

Covers busfast/training/__init__.py, busfast/training/train.py, busfast/training/build.py, busfast/training/job.py,
busfast/training/runs.py, busfast/training/finish.py, busfast/training/log.py and busfast/training/curves.py.
"""

from types import SimpleNamespace

import pandas as pd
import pytest
import timm
import torch
import yaml
from conftest import ARCH, SIZE
from PIL import Image

from busfast.cli import main
from busfast.data import read_split
from busfast.training.runs import Run

FILES = {"config.yaml", "split.csv", "training_log.csv", "loss_curve.png", "recall_curve.png", "lr_curve.png",
         "summary.yaml", "valid_predictions.csv", "train_batch.png", "val_batch.png"}
COLUMNS = ["epoch", "train_loss", "val_loss", "val_acc", "macro_auc", "recall_normal", "recall_benign",
           "recall_malignant", "lr", "seconds"]


def run(*argv) -> None:
    assert main(list(argv)) == 0


def log(name) -> pd.DataFrame:
    return pd.read_csv(Run(name).results / "training_log.csv")


def tree(folder):
    return {path.relative_to(folder): path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("loader", ["dali", "torchvision"])
def test_train_leaves_every_file_of_a_run(workdir, real_curves, loader, capsys):
    if loader == "dali":
        pytest.importorskip("nvidia.dali")
    run("train", "--split=stratified", f"--loader={loader}")
    name = "phantom/stratified"
    assert {path.name for path in Run(name).results.iterdir()} == FILES
    assert {path.name for path in Run(name).models.iterdir()} == {"best.pth", "final.pth"}
    rows = log(name)
    assert list(rows) == COLUMNS and list(rows["epoch"]) == [1, 2]
    assert rows["lr"].tolist() == pytest.approx([5.005e-4, 1e-6])
    for curve in ("loss", "recall", "lr"):
        assert Image.open(Run(name).results / f"{curve}_curve.png").size[0] > 600
    for file in ("best.pth", "final.pth"):
        model = timm.create_model(ARCH, num_classes=3)
        model.load_state_dict(torch.load(Run(name).models / file, weights_only=True))
        shares = model.eval()(torch.rand(2, 3, SIZE, SIZE)).softmax(dim=1)
        assert shares.shape == (2, 3) and shares.sum(dim=1).tolist() == pytest.approx([1, 1])
    out = capsys.readouterr().out
    assert "PHANTOM" in out and f"loader: {loader}" in out and "best epoch" in out and "epoch 2/2" in out


def test_the_record_says_everything_needed_to_run_it_again_and_gives_the_same_log(workdir):
    run("train", "--split=center_holdout", "--seed=7")
    name = "phantom/center_holdout"
    config = yaml.safe_load((Run(name).results / "config.yaml").read_text())
    record = config["run"]
    assert config["seed"] == 7 and config["holdout"] == record["holdout"] == ["gamma"]
    assert record["phantom"] and record["loader"] == "torchvision" and record["device"] == "cpu"
    assert record["weights"]["text"] == "random (asked for)"
    assert {"busfast", "python", "torch", "fastai", "timm"} <= set(record["versions"])
    summary = yaml.safe_load((Run(name).results / "summary.yaml").read_text())
    assert summary["state"] == "finished" and summary["threads"] == record["threads"] == torch.get_num_threads()
    run("train", f"--pipeline={Run(name).results / 'config.yaml'}", "--split=center_holdout", "--threads=1")
    again = log("phantom/center_holdout-2")
    pd.testing.assert_frame_equal(log(name).drop(columns="seconds"), again.drop(columns="seconds"))
    first, second = (torch.load(Run(one).models / "final.pth", weights_only=True)
                     for one in (name, "phantom/center_holdout-2"))
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_a_second_run_leaves_the_first_untouched(workdir):
    run("train", "--epochs=1")
    before = tree(workdir / "results") | tree(workdir / "models")
    run("train", "--epochs=1")
    after = tree(workdir / "results" / "phantom" / "stratified-2")
    assert {path.name for path in after} == FILES
    unchanged = tree(workdir / "results") | tree(workdir / "models")
    assert all(unchanged[path] == time for path, time in before.items() if path.suffix)


def test_all_trains_each_split_then_compares(workdir, capsys):
    run("train", "--split=all", "--epochs=1")
    table = pd.read_csv("results/compare.csv")
    assert sorted(table["run"]) == ["phantom/center_holdout", "phantom/stratified"]
    assert table["data"].str.contains("PHANTOM").all() and (table["state"] == "finished").all()
    best = [log(name)["val_loss"].min() for name in table["run"]]
    assert table["val_loss"].tolist() == pytest.approx(best)
    assert "phantom/stratified" in (workdir / "results" / "compare.md").read_text()
    assert "val AUC" in capsys.readouterr().out


@pytest.mark.parametrize("cache", ["off", "kept"])
def test_training_reads_the_written_split_and_never_the_test_part(workdir, phantom_folder, monkeypatch, cache):
    opened = set()
    from busfast.pipelines import cache as cache_module
    from busfast.pipelines import torchvision_loader

    def remember(source, *args, original=torchvision_loader.load_pixels, **kwargs):
        opened.add(str(source))
        return original(source, *args, **kwargs)
    for module in (torchvision_loader, cache_module):
        monkeypatch.setattr(module, "load_pixels", remember)
    run("train", "--split=center_holdout", "--epochs=1", f"--cache={cache}")
    parts = read_split("results/phantom/center_holdout/split.csv", phantom_folder)
    used = {str(phantom_folder / image) for image in parts.only("train", "valid").rows["image"]}
    assert opened == used and set(parts.only("test").rows["center"]) == {"gamma"}


def test_the_preset_is_recorded_and_an_epoch_is_profiled(workdir, capsys):
    run("train", "--preset=fast", "--epochs=2", "--size=48", "--profile")
    config = yaml.safe_load((workdir / "results/phantom/stratified/config.yaml").read_text())
    assert (config["size"], config["freeze"], config["bs"]) == (48, 4, 16)
    assert config["run"]["cached_images"] == 76
    profile = pd.read_csv("results/phantom/stratified/profile.csv")
    phases = profile.drop(columns=["epoch", "seconds"])
    assert profile["epoch"].tolist() == [1, 2] and len(phases.columns) == 7
    assert phases.sum(axis=1).tolist() == pytest.approx(profile["seconds"].tolist(), abs=1e-3)
    out = capsys.readouterr().out
    assert "freeze=4 ignored: random weights" in out
    assert "waiting for data" in out and "cache: decoding 76 images once, to 48 px" in out
    run("predict", "results/phantom/stratified/split.csv".replace("split.csv", "loss_curve.png"),
        "--run=phantom/stratified", "--out=one.csv")


def test_monitor_may_be_any_logged_measure(workdir):
    run("train", "--monitor=recall_malignant", "--epochs=1")
    assert yaml.safe_load(open("results/phantom/stratified/summary.yaml"))["monitor"] == "recall_malignant"


def test_interrupted_training_keeps_what_was_written_and_says_so(workdir, monkeypatch, capsys):
    from busfast.training import callbacks

    def interrupt(self):
        raise KeyboardInterrupt
    monkeypatch.setattr(callbacks.SaveFinal, "after_fit", interrupt)
    assert main(["train", "--epochs=1"]) == 130
    assert len(log("phantom/stratified")) == 1
    assert yaml.safe_load(open("results/phantom/stratified/summary.yaml"))["state"] == "interrupted"
    assert "what was written stays" in capsys.readouterr().out


def test_a_results_folder_that_cannot_be_written_is_refused(workdir, capsys):
    (workdir / "results").write_text("in the way")
    assert main(["train"]) == 2
    assert "busfast: Cannot create" in capsys.readouterr().err
    assert (workdir / "results").read_text() == "in the way" and not (workdir / "models").exists()


def test_a_run_that_cannot_start_leaves_nothing(workdir, capsys):
    torch.save(timm.create_model("test_resnet").state_dict(), "other.pth")
    before = sorted(workdir.rglob("*"))
    assert main(["train", "--weights=other.pth"]) == 2
    assert f"do not fit {ARCH}" in capsys.readouterr().err
    left = {path for path in workdir.rglob("*") if path.is_file()}
    assert left == {path for path in before if path.is_file()}


def test_a_loss_that_is_no_number_ends_with_a_clear_error_and_no_invitation_to_go_on(workdir, capsys, monkeypatch):
    from busfast.training import guards

    monkeypatch.setattr(guards, "math", SimpleNamespace(isfinite=lambda value: False))
    assert main(["train", "--epochs=1"]) == 2
    printed = capsys.readouterr()
    assert "Try a lower --lr=0.0001 in a new run" in printed.err and "--resume" not in printed.out
    assert len(pd.read_csv(Run("phantom/stratified").results / "bad_batch.csv")) == 16
