"""Several processes that torchrun starts train what one would: the same images, weights, log and files, said once."""

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
from busfast.training.resume import warn_of_other_bits
from busfast.training.runs import Run
from training.kills import differences

pytest.importorskip("accelerate")

ROOT = Path(__file__).parents[3]
SAME = 0.002  # of the way that training moves the weights
RUN = Run("phantom/stratified")


def start(count: int, *words: str, what: tuple[str, ...] = ("-m", "busfast")) -> subprocess.Popen:
    starter = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}", *what]
    return subprocess.Popen([sys.executable, *starter, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})


def end(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def train(count: int, *words: str) -> str:
    status, out, err = end(start(count, "train", *words))
    assert status == 0, out + err
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
    said = [pd.read_csv(run.results / "valid_predictions.csv") for run in (one, several)]
    assert said[0]["image"].equals(said[1]["image"])
    np.testing.assert_allclose(*(table.filter(like="p_") for table in said), atol=1e-3)
    for file in ("best.pth", "final.pth"):
        alone, together = (learned(run.models / file) for run in (one, several))
        assert (together - alone).norm() < SAME * (alone - learned()).norm()
    states = [yaml.safe_load((run.results / "summary.yaml").read_text()) for run in (one, several)]
    assert all(states[0][key] == states[1][key] for key in ("state", "epochs", "best_epoch"))


def test_two_processes_make_the_runs_of_one_and_stop_early_with_it(workdir):
    set_pipeline(dropout=0, bs=15, monitor="recall_normal")
    words = ["--split=kfold", "--folds=2", "--epochs=4", "--patience=2", "--then=evaluate"]
    assert main(["train", *words]) == 0
    said = train(2, *words)
    assert said.count("epoch 1/4") == 2 and said.count("2 processes share each batch of 15") == 2  # each fold once
    assert said.count("stopping early") == 2 and said.count("predicting") == 2
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


def test_a_process_that_is_killed_ends_the_job_which_goes_on_to_the_same_bits(workdir):
    """With dropout, which each process draws for itself."""
    psutil = pytest.importorskip("psutil")  # Accelerate brings it
    set_pipeline(dropout=0.3, bs=31)
    words = ["--epochs=3", "--seed=1"]
    train(2, *words)
    killed = start(2, "train", *words)
    second = Run("phantom/stratified-2")
    until = time.monotonic() + 60
    while not (second.models / NAME).exists() and killed.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    ranks = {child.environ()["RANK"]: child for child in psutil.Process(killed.pid).children()}
    ranks["1"].kill()
    status, out, err = end(killed)
    assert status != 0 and re.search(r"rank +: 1 .*\n +exitcode +: -9", err)
    assert "busfast: Another process of this training has ended" in err
    assert "to continue: torchrun --nproc_per_node=2 -m busfast train --epochs=3 --seed=1 --resume" in out
    said = train(2, *words, "--resume")
    assert "phantom/stratified-2 goes on after epoch" in said and "last bit" not in said
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
    before = files(".")
    status, out, err = end(start(2, "train", "--data=own", "--pipeline=phantom"))
    assert status != 0 and err.count("bening") == 1 and re.search(r"exitcode +: 2 ", err)
    assert str(ROOT / "busfast") not in err  # no traceback
    assert files(".") == before


SPOILT = """
import os, sys
from busfast.cli import main
from busfast.errors import UserError
from busfast.training.guards import RaiseOnSignal

def before_batch(self):
    if second and self.iter == 1:
        SPOIL
second = os.environ["RANK"] == "1"
RaiseOnSignal.before_batch = before_batch
sys.exit(main())
"""


@pytest.mark.parametrize(("spoil", "error"), [
    ("self.learn.xb = (self.xb[0] * float('nan'),)", "busfast: The training loss became nan in epoch 1, batch 2."),
    ("raise UserError('The image x.png cannot be read.')", "busfast, process 1 of 2: The image x.png cannot be read.")])
def test_what_goes_wrong_in_another_process_ends_all_and_is_said_once(workdir, spoil, error):
    Path("spoilt.py").write_text(SPOILT.replace("SPOIL", spoil))
    status, out, err = end(start(2, "train", what=("spoilt.py",)))
    assert status != 0 and err.count(error) == 1 and "failed after 0 epochs" in out
    assert str(ROOT / "busfast") not in err and "Exception ignored" not in err and err.count("busfast: ") == 1
    assert err.count("busfast, process") == ("process" in error)
    assert os.listdir("results/phantom") == ["stratified"]
    if "nan" in error:
        batch = pd.read_csv(RUN.results / "bad_batch.csv")
        assert len(batch) == batch["image"].nunique() == 16  # those of both
        assert "to continue" not in out


@pytest.fixture
def place(monkeypatch):
    """Makes this process one of three."""
    def number(value):
        monkeypatch.setattr(processes, "_launcher", {"RANK": str(value), "WORLD_SIZE": "3", "LOCAL_RANK": str(value),
                                                  "LOCAL_WORLD_SIZE": "3"})
    return number


@pytest.mark.parametrize("number", range(3))
def test_a_verb_for_one_process_is_refused_in_each_and_said_by_the_first(workdir, place, capsys, number):
    place(number)
    assert main(["report", "--run=phantom/stratified"]) == 2
    said = capsys.readouterr().err
    assert ("report runs in one process and was started in 3" in said) == (number == 0) and said.count("\n") < 2


@pytest.mark.parametrize(("values", "said"), [({"bs": 2}, "Give --bs=3 or more, or start fewer processes"),
                                              ({"device": "mps"}, "device=mps")])
def test_what_processes_cannot_share_is_refused_before_the_images_are_read(place, values, said):
    config = Config(data="data", **{"device": "cpu"} | values)
    if "bs" in values:
        check_processes(config)
    place(0)
    with pytest.raises(UserError, match=said):
        check_processes(config)


def test_without_accelerate_the_package_is_named(place, monkeypatch):
    monkeypatch.setattr(store.importlib.util, "find_spec", lambda name: None)
    place(0)
    with pytest.raises(UserError, match="pip install accelerate"):
        check_processes(Config(data="data"))


def test_the_place_is_taken_out_of_the_environment_and_shown_when_it_is_needed(monkeypatch):
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
    warn_of_other_bits({"versions": {}}, {"versions": {}, "processes": 1})  # begun by a busfast that knew of one alone
    assert capsys.readouterr().out == ""
    warn_of_other_bits({"versions": {}, "processes": 2}, {"versions": {}, "processes": 3})
    assert "not be the same to the last bit as without a stop: processes 2 is now 3" in capsys.readouterr().out
