"""Several processes train what one would: the same images, weights, log and files, and each message once.

Covers busfast/processes.py, busfast/training/distributed/__init__.py, busfast/training/distributed/collectives.py,
busfast/training/distributed/store.py, busfast/training/distributed/trainer.py and
busfast/training/distributed/worker.py. Ranks are forked and ended as torchrun does (see `forks`); torchrun itself
starts those of one test.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
import yaml
from conftest import ARCH

from busfast import processes
from busfast.cli import main
from busfast.errors import UserError
from busfast.pipelines.config import Config
from busfast.training.checkpoint import NAME
from busfast.training.distributed import store
from busfast.training.distributed.store import check_processes
from busfast.training.resume import warn_if_not_reproducible
from busfast.training.runs import Run
from training.distributed import spoil
from training.forks import Ranks
from training.kills import differences

pytest.importorskip("accelerate")

ROOT = Path(__file__).parents[3]
SAME = 0.002  # of the way that training moves the weights
RUN = Run("phantom/stratified")


def train(count: int, *flags: str) -> str:
    statuses, out, err = Ranks(count, ["train", *flags]).wait()
    assert statuses == [0] * count, out + err
    return out


def set_pipeline(**values) -> None:
    path = Path("pipelines/phantom.yaml")
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | values))


def files(*folders: str) -> list[str]:
    return sorted(str(path) for folder in folders for path in Path(folder).rglob("*"))


def learned(path: Path | None = None) -> torch.Tensor:
    """All learned weights of a file in one vector; of none, those that training begins with."""
    if path is None:
        torch.manual_seed(42)
    state = torch.load(path, weights_only=True) if path else timm.create_model(ARCH, num_classes=3).state_dict()
    names = timm.create_model(ARCH, num_classes=3).state_dict().keys()
    assert state.keys() == names
    return torch.cat([value.double().flatten() for name, value in state.items()
                      if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))])


def assert_same(one: Run, several: Run) -> None:
    logs = [pd.read_csv(run.results / "training_log.csv").drop(columns="seconds") for run in (one, several)]
    pd.testing.assert_frame_equal(*logs, rtol=1e-3, atol=1e-4)
    tables = [pd.read_csv(run.results / "valid_predictions.csv") for run in (one, several)]
    assert tables[0]["image"].equals(tables[1]["image"])
    np.testing.assert_allclose(*(table.filter(like="p_") for table in tables), atol=1e-3)
    for file in ("best.pth", "final.pth"):
        alone, together = (learned(run.models / file) for run in (one, several))
        assert (together - alone).norm() < SAME * (alone - learned()).norm()
    states = [yaml.safe_load((run.results / "summary.yaml").read_text()) for run in (one, several)]
    assert all(states[0][key] == states[1][key] for key in ("state", "epochs", "best_epoch"))


def test_two_processes_make_the_runs_of_one_and_stop_early_with_it(workdir):
    set_pipeline(dropout=0, bs=15, monitor="recall_normal", label_smoothing=0.1)
    flags = ["--split=kfold", "--folds=2", "--epochs=4", "--patience=2", "--then=evaluate"]
    assert main(["train", *flags]) == 0
    out = train(2, *flags)
    assert out.count("epoch 1/4") == 2 and out.count("2 processes share each batch of 15") == 1  # said once
    assert out.count("stopping early") == 2 and out.count("predicting") == 2
    for fold in ("kfold-1of2", "kfold-2of2"):
        one, several = Run(f"phantom/{fold}"), Run(f"phantom/{fold}-2")
        assert_same(one, several)
        for room in ("results", "models"):
            names = [sorted(path.name for path in getattr(run, room).iterdir()) for run in (one, several)]
            assert names[0] == names[1]
        records = [yaml.safe_load((run.results / "config.yaml").read_text())["run"] for run in (one, several)]
        assert [record["processes"] for record in records] == [1, 2]
    assert sorted(os.listdir("results/phantom")) == sorted(os.listdir("models/phantom")) and len(
        os.listdir("results/phantom")) == 4


def test_three_processes_share_a_last_batch_of_two_images(workdir):
    set_pipeline(dropout=0, bs=31, cache="off")
    assert main(["train", "--epochs=2"]) == 0
    counts = pd.read_csv(RUN.results / "split.csv")["part"].value_counts()
    assert counts["train"] % 31 == 2
    train(3, "--epochs=2")
    assert_same(RUN, Run("phantom/stratified-2"))


def test_a_process_that_is_killed_ends_the_run_which_is_resumed_to_the_same_bits(workdir):
    """With dropout, which each rank draws for itself; the killed run is started by the real torchrun."""
    psutil = pytest.importorskip("psutil")  # Accelerate brings it
    set_pipeline(dropout=0.3, bs=31)
    flags = ["--epochs=3", "--seed=1"]
    train(2, *flags)
    second = Run("phantom/stratified-2")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
                "--monitor-interval=2", "-m", "busfast"]  # so that a busy rank 0 is not ended before it has noticed
    killed = subprocess.Popen([*launcher, "train", *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              env=os.environ | {"PYTHONPATH": str(ROOT)})
    until = time.monotonic() + 120
    while not (second.models / NAME).exists() and killed.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    ranks = {child.environ()["RANK"]: child for child in psutil.Process(killed.pid).children()}
    ranks["1"].kill()
    out, err = killed.communicate(timeout=120)
    assert killed.returncode != 0 and re.search(r"rank +: 1 .*\n +exitcode +: -9", err)
    assert "busfast: Another process of this training has ended" in err
    assert "to continue: torchrun --nproc_per_node=2 -m busfast train --epochs=3 --seed=1 --resume" in out
    out = train(2, *flags, "--resume")
    assert "phantom/stratified-2 continues after epoch" in out and "last bits" not in out
    views = []
    for run in (RUN, second):
        views.append(Path(f"view-{len(views)}"))
        views[-1].mkdir()
        for room in ("results", "models"):
            (views[-1] / room).symlink_to((Path(room) / run.name).resolve())
    assert differences(*views) == []


def test_a_table_that_is_wrong_is_refused_once(workdir, phantom_folder):
    shutil.copytree(phantom_folder, "own")
    Path("own/table.csv").write_text((phantom_folder / "table.csv").read_text().replace(",benign,", ",bening,", 1))
    before = files("own", "results", "models")
    statuses, out, err = Ranks(2, ["train", "--data=own", "--pipeline=phantom"]).wait()
    assert statuses[0] == 2 and statuses[1] != 0 and err.count("Did you mean 'benign'") == 1
    assert str(ROOT / "busfast") not in err  # no traceback
    assert files("own", "results", "models") == before


@pytest.mark.parametrize(("setup", "error"), [
    (spoil.pixels_become_nan, "busfast: The training loss became nan in epoch 1, batch 2."),
    (spoil.image_becomes_unreadable, "busfast, process 1 of 2: The image x.png cannot be read.")])
def test_what_goes_wrong_in_another_process_ends_all_and_is_said_once(workdir, setup, error):
    statuses, out, err = Ranks(2, ["train"], setup).wait()
    assert all(statuses) and err.count(error) == 1 and "failed after 0 epochs" in out
    assert str(ROOT / "busfast") not in err and "Exception ignored" not in err and err.count("busfast: ") == 1
    assert err.count("busfast, process") == ("process" in error)
    assert os.listdir("results/phantom") == ["stratified"]
    if "nan" in error:
        batch = pd.read_csv(RUN.results / "bad_batch.csv")
        assert len(batch) == batch["image"].nunique() == 16  # those of both
        assert "to continue" not in out


@pytest.fixture
def set_rank(monkeypatch):
    """Makes this process one of three."""
    def set_rank(value):
        monkeypatch.setattr(processes, "_launcher", {"RANK": str(value), "WORLD_SIZE": "3", "LOCAL_RANK": str(value),
                                                  "LOCAL_WORLD_SIZE": "3"})
    return set_rank


@pytest.mark.parametrize("rank", range(3))
def test_a_verb_for_one_process_is_refused_in_each_and_said_by_the_first(workdir, set_rank, capsys, rank):
    set_rank(rank)
    assert main(["report", "--run=phantom/stratified"]) == 2
    err = capsys.readouterr().err
    assert ("report runs in one process and was started in 3" in err) == (rank == 0) and err.count("\n") < 2


@pytest.mark.parametrize(("values", "message"), [({"bs": 2}, "Give --bs=3 or more, or start fewer processes"),
                                              ({"device": "mps"}, "device=mps"),
                                              ({"mixup": 0.2}, "mixup=0.2 needs the whole batch")])
def test_what_processes_cannot_share_is_refused_before_the_images_are_read(set_rank, values, message):
    config = Config(data="data", **{"device": "cpu"} | values)
    if "bs" in values:
        check_processes(config, torch.device(config.device))
    set_rank(0)
    with pytest.raises(UserError, match=message):
        check_processes(config, torch.device(config.device))


def test_without_accelerate_the_package_is_named(set_rank, monkeypatch):
    monkeypatch.setattr(store.importlib.util, "find_spec", lambda name: None)
    set_rank(0)
    with pytest.raises(UserError, match="pip install accelerate"):
        check_processes(Config(data="data"), torch.device("cpu"))


def test_the_rank_is_taken_out_of_the_environment_and_restored_when_it_is_needed(monkeypatch):
    monkeypatch.setattr(processes, "_launcher", {})
    monkeypatch.setenv("WORLD_SIZE", "4")
    processes.capture_launcher()  # some clusters set it without starting several
    assert processes.world_size() == 1 and os.environ["WORLD_SIZE"] == "4"
    monkeypatch.setenv("RANK", "2"), monkeypatch.setenv("LOCAL_RANK", "0"), monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    processes.capture_launcher()
    assert (processes.rank(), processes.world_size()) == (2, 4)
    assert (processes.local_rank(), processes.local_world_size()) == (0, 2)
    assert not set(processes.KEYS) & set(os.environ)
    with processes.launcher_environment():
        assert os.environ["RANK"] == "2"
    assert not set(processes.KEYS) & set(os.environ)


def test_another_number_of_processes_is_said_when_a_run_goes_on(capsys):
    warn_if_not_reproducible({"versions": {}}, {"versions": {}, "processes": 1})  # begun by a busfast without ranks
    assert capsys.readouterr().out == ""
    warn_if_not_reproducible({"versions": {}, "processes": 2}, {"versions": {}, "processes": 3})
    assert "may differ from an uninterrupted run: processes 2 is now 3" in capsys.readouterr().out
