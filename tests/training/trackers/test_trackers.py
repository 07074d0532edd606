"""--tracker: what lands in TensorBoard, W&B and MLflow, that none of it leaves the machine or changes the training.

Covers busfast/training/trackers/__init__.py, busfast/training/trackers/base.py,
busfast/training/trackers/to_mlflow.py, busfast/training/trackers/to_tensorboard.py and
busfast/training/trackers/to_wandb.py.
"""

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from conftest import write_pipeline
from mlflow.tracking import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from busfast.cli import main
from busfast.training.runs import Run
from busfast.training.trackers import TRACKERS, choose_trackers, track_results
from busfast.training.trackers.to_mlflow import MLflow
from busfast.training.training_state import Checkpoint
from training.kills import differences

ALL = "--tracker=" + ",".join(TRACKERS)
# Tracker -> the module that is hidden from it; it must be the very one that the tracker imports.
BLOCKED = {"tensorboard": "fastai.callback.tensorboard", "wandb": "wandb", "mlflow": "mlflow.tracking"}
MEASURES = ["val_loss", "val_acc", "macro_auc", "recall_normal", "recall_benign", "recall_malignant"]


def log_of(run: Run) -> pd.DataFrame:
    return pd.read_csv(run.results / "training_log.csv")


def batches(run: Run, log: pd.DataFrame) -> list[int]:
    """The number of batches that were trained by the end of each epoch of a log."""
    config, record = run.read_config()
    return [epoch * -(-sum(record["counts"]["train"].values()) // config.bs) for epoch in log["epoch"]]


def events(run: Run) -> EventAccumulator:
    return EventAccumulator(str(run.results / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0}).Reload()


def scalars(read: EventAccumulator, tag: str) -> dict[int, float]:
    found = read.Scalars(tag)
    assert len({one.step for one in found}) == len(found), f"{tag} has a step twice"
    return {one.step: one.value for one in found}


def sessions(run: Run) -> list[list[dict]]:
    """The records of each offline session of a W&B run, as W&B's own reader gives them; all have one id."""
    files = sorted((run.results / "wandb").glob("offline-run-*/*.wandb"))
    assert {path.stem for path in files} == {"run-" + tracker_states(run)["wandb"]["id"]}
    read = [subprocess.run([sys.executable, "-m", "wandb", "leet", "inspect", "--json", path], capture_output=True,
                           text=True, check=True, env=os.environ | {"WANDB_MODE": "offline"}).stdout for path in files]
    return [[json.loads(line) for line in text.splitlines()] for text in read]


def history(records: list[dict]) -> dict[int, dict]:
    return {one["history"]["step"].get("num", 0): one["history"]["item"] for one in records if one["type"] == "history"}


def tracker_states(run: Run) -> dict:
    return yaml.safe_load((run.results / "tracking.yaml").read_text())


def experiment(run: Run):
    client = MlflowClient("sqlite:///results/mlflow/mlflow.db")
    return client, client.get_run(tracker_states(run)["mlflow"]["id"])


def metric(client, number, name) -> dict[int, float]:
    found = client.get_metric_history(number, name)
    assert len({one.step for one in found}) == len(found), f"{name} has a step twice"
    return {one.step: one.value for one in found}


@pytest.fixture(scope="module")
def tracked_folder(tmp_path_factory, phantom_folder):
    """A folder with a run without trackers and the same run with all of them, explained and reported on."""
    folder = tmp_path_factory.mktemp("tracked")
    write_pipeline(folder, phantom_folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train"]) == 0
        assert main(["train", ALL, "--then=explain,report"]) == 0
    return folder


@pytest.fixture
def tracked(tracked_folder, monkeypatch):
    """The tracked run; the working folder is its."""
    monkeypatch.chdir(tracked_folder)
    return Run("phantom/stratified-2")


def test_the_result_is_the_same_to_the_last_bit_as_without_trackers(tracked, tmp_path):
    for number, run in enumerate((Run("phantom/stratified"), tracked)):
        (tmp_path / str(number)).mkdir()
        for room in ("results", "models"):
            (tmp_path / str(number) / room).symlink_to(getattr(run, room).absolute())
    found = differences(tmp_path / "0", tmp_path / "1")
    assert [one for one in found if not one.startswith("files of results")] == []


def test_tensorboard_has_curves_configuration_tables_and_the_model_card(tracked):
    log, read = log_of(tracked), events(tracked)
    ends = batches(tracked, log)
    for name in (*MEASURES, "lr", "epoch"):
        assert scalars(read, name) == pytest.approx(dict(zip(ends, log[name], strict=True)), rel=1e-4), name
    losses = scalars(read, "train_loss")
    assert list(losses) == list(range(1, ends[-1] + 1))
    assert [losses[step] for step in ends] == pytest.approx(log["train_loss"].tolist(), rel=1e-4)
    texts = {tag.removesuffix("/text_summary"): read.Tensors(tag) for tag in read.Tags()["tensors"]}
    assert all(len(found) == 1 for found in texts.values())
    texts = {tag: found[0].tensor_proto.string_val[0].decode() for tag, found in texts.items()}
    assert "class_weights" in texts["config"] and "torch" in texts["config"]
    assert texts["metrics"].startswith("| part |") and "| test | all |" in texts["metrics"]
    assert "Model card: phantom/stratified-2" in texts["model_card"]
    assert {"loss_curve", "roc", "confusion"} <= set(read.Tags()["images"])


def test_wandb_has_curves_configuration_tables_and_the_report(tracked):
    log, (first, *later) = log_of(tracked), sessions(tracked)
    rows = history(first)
    for end, row in zip(batches(tracked, log), log.to_dict("records"), strict=True):
        logged = rows[end - 1]  # W&B counts from 0
        assert {name: logged[name] for name in (*MEASURES, "train_loss", "lr", "epoch")} == pytest.approx(
            {name: row[name] for name in (*MEASURES, "train_loss", "lr", "epoch")}, rel=1e-4)
    config = next(one for one in first if one["type"] == "run")["run"]["config"]["update"]
    assert config["arch"] == tracked.read_config()[0].arch and config["run.counts.train.benign"] > 0
    summary = {key: value for records in later for one in records if one["type"] == "summary"
               for key, value in one["summary"]["update"].items()}
    assert summary["tables/metrics"]["_type"] == "table-file" and 0 <= summary["test/macro_auc"] <= 1
    files = {path.name for path in (tracked.results / "wandb").glob("offline-run-*/files/*")}
    assert {"report.html", "model_card.md", "loss_curve.png", "metrics.csv", "config.yaml"} <= files


def test_mlflow_has_curves_configuration_scores_and_the_report(tracked):
    log, (client, found) = log_of(tracked), experiment(tracked)
    for name in (*MEASURES, "train_loss", "lr"):
        assert metric(client, found.info.run_id, name) == pytest.approx(dict(zip(log["epoch"], log[name], strict=True)))
    scores = pd.read_csv(tracked.results / "metrics.csv").query("part == 'test' and by == 'all'").set_index("score")
    assert found.data.metrics["test/macro_auc"] == scores.loc["macro_auc", "estimate"]
    assert found.data.params["arch"] == tracked.read_config()[0].arch
    assert found.data.params["run.class_weights.malignant"] and found.data.params["run.versions.torch"]
    assert (found.info.status, found.info.run_name) == ("FINISHED", "stratified-2")
    files = {one.path for one in client.list_artifacts(found.info.run_id)}
    assert {"report.html", "model_card.md", "loss_curve.png", "roc.png", "metrics.csv", "config.yaml"} <= files


def test_no_image_and_no_row_of_a_patient_is_handed_over(tracked):
    picture = base64.b64encode((tracked.results / "explain.png").read_bytes()).decode()
    assert picture in (tracked.results / "report.html").read_text()
    client, found = experiment(tracked)
    pages = [Path(client.download_artifacts(found.info.run_id, "report.html")),
             *(tracked.results / "wandb").glob("offline-run-*/files/report.html")]
    assert len(pages) == 2
    for page in pages:
        assert picture not in page.read_text() and "data:image/png" in page.read_text()
    there = {path.name for folder in (tracked.results / "wandb", Path("results/mlflow")) for path in folder.rglob("*")}
    assert there & {"explain.png", "predictions.csv", "valid_predictions.csv", "split.csv"} == set()
    assert "explain" not in events(tracked).Tags()["images"]


def test_what_a_tracker_has_already_is_not_handed_over_again(tracked):
    before = set(tracked.results.rglob("*"))
    track_results(tracked)
    track_results(Run("phantom/stratified"))  # has none
    assert set(tracked.results.rglob("*")) == before


def test_a_run_that_goes_on_goes_on_with_its_trackers_and_has_no_epoch_twice(workdir, monkeypatch):
    def after_epoch(self, own=Checkpoint.after_epoch):  # which comes after the trackers
        if self.epoch == 1:
            raise KeyboardInterrupt
        own(self)
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "after_epoch", after_epoch)
        assert main(["train", "--epochs=3", ALL]) == 130
    run = Run("phantom/stratified")
    assert experiment(run)[1].info.status == "FAILED"
    assert main(["train", "--epochs=3", "--resume"]) == 0
    log, read = log_of(run), events(run)
    ends = batches(run, log)
    assert len(ends) == 3 and list(scalars(read, "train_loss")) == list(range(1, ends[-1] + 1))
    for name in MEASURES:
        assert scalars(read, name) == pytest.approx(dict(zip(ends, log[name], strict=True)), rel=1e-4)
    client, found = experiment(run)
    assert metric(client, found.info.run_id, "val_loss") == pytest.approx(
        dict(zip(log["epoch"], log["val_loss"], strict=True)))
    assert found.info.status == "FINISHED"
    first, second = map(history, sessions(run))
    assert list(first) == list(range(ends[1])) and list(second) == list(range(ends[0], ends[2]))
    same = first.keys() & second.keys()  # of the epoch that was trained twice: W&B has one value for a step
    assert all(first[step]["train_loss"] == second[step]["train_loss"] for step in same) and len(same) == ends[0]


def test_a_tracker_that_fails_is_left_out_and_the_training_goes_on(workdir, monkeypatch, capsys):
    def full(*args):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(MLflow, "_log", full)
    assert main(["train", "--tracker=tensorboard,mlflow"]) == 0
    out = capsys.readouterr().out
    assert "tracker: tensorboard; to look at it: tensorboard --logdir=results\n" in out
    assert out.count("WARNING: tracker mlflow") == 1 and "No space left on device" in out
    run = Run("phantom/stratified")
    assert len(log_of(run)) == len(scalars(events(run), "val_loss")) == 2
    assert "files" not in tracker_states(run)["mlflow"] or "summary.yaml" not in tracker_states(run)["mlflow"]["files"]


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_package_is_named_before_an_image_is_read(workdir, monkeypatch, capsys, name):
    for module in [module for module in sys.modules if module.startswith(f"busfast.training.trackers.to_{name}")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, BLOCKED[name], None)
    assert main(["train", f"--tracker={name}"]) == 2
    printed = capsys.readouterr()
    assert f"--tracker={name} is not available here" in printed.err and printed.err.endswith(f"pip install {name}\n")
    assert "images decode" not in printed.out and not Path("results").exists()


def test_an_unknown_tracker_is_refused_with_the_nearest(workdir, capsys):
    assert main(["train", "--tracker=tensorbord"]) == 2
    assert "Unknown tracker 'tensorbord'. Did you mean 'tensorboard'?" in capsys.readouterr().err
    assert choose_trackers(None) == () and choose_trackers("wandb, wandb") == ("wandb",)


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace shows connections; it is not installed")
def test_nothing_connects_to_another_machine(tracked_folder, tmp_path):
    untracked = Path("results", "phantom", "stratified")
    shutil.copytree(tracked_folder / untracked, tmp_path / untracked)
    env = {key: value for key, value in os.environ.items()  # those by which MLflow would know a test from a user
           if not key.startswith(("CI", "PYTEST", "GITHUB", "MLFLOW", "WANDB", "DO_NOT"))}
    code = ("from busfast.training.runs import Run\nfrom busfast.training.trackers import TRACKERS, track\n"
            "with track(Run('phantom/stratified'), TRACKERS) as there: print(len(there))")
    subprocess.run(["strace", "--seccomp-bpf", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg,sendmmsg", "-o",
                    tmp_path / "calls", sys.executable, "-c", code], cwd=tmp_path, check=True,
                   env=env | {"PYTHONPATH": str(Path(__file__).parents[3])})
    calls = (tmp_path / "calls").read_text()
    assert "AF_UNIX" in calls  # W&B's own service, on this machine
    assert [line for line in calls.splitlines() if "AF_INET" in line] == []
