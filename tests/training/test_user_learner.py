"""--learner=FILE: the user's own function changes the Learner, is on record, and its mistakes are shown as its own."""

from pathlib import Path

import pandas as pd
import pytest
import yaml

from busfast.cli import main
from busfast.errors import UserError
from busfast.training.callbacks import WarnCollapse
from busfast.training.runs import Run
from busfast.training.user_learner import load_user_learner

RUN = Run("phantom/stratified")
FOCAL = """
from fastai.callback.core import Callback
from fastai.losses import FocalLossFlat

class Say(Callback):
    def after_epoch(self):
        print("my own callback, epoch", self.epoch)

def learner(learn):
    learn.loss_func = FocalLossFlat(gamma=1.0)
    learn.add_cb(Say())
"""


def train(*flags):
    return main(["train", "--learner=my.py", "--epochs=1", *flags])


def test_the_function_changes_the_learner_and_is_kept_with_the_run(workdir, capsys):
    Path("my.py").write_text(FOCAL)
    assert train("--then=evaluate,report") == 0
    out = capsys.readouterr().out
    assert "learner: changed by my.py" in out and "my own callback, epoch 0" in out
    record = yaml.safe_load((RUN.results / "config.yaml").read_text())["run"]["learner"]
    assert record["file"] == "my.py" and len(record["sha256"]) == 64
    assert (RUN.results / "learner.py").read_text() == FOCAL
    first = (RUN.results / "config.yaml").read_text().splitlines()[0]
    assert "--learner=results/phantom/stratified/learner.py" in first
    assert record["sha256"] in (RUN.results / "model_card.md").read_text()
    # The same run again, by its own command, gives the same weights.
    own = RUN.results / "learner.py"
    assert main(["train", f"--pipeline={RUN.results}/config.yaml", "--split=stratified", f"--learner={own}"]) == 0
    again = Run("phantom/stratified-2")
    assert (again.models / "best.pth").read_bytes() == (RUN.models / "best.pth").read_bytes()


def test_the_log_keeps_its_own_metrics_beside_the_users(workdir):
    Path("my.py").write_text("from fastai.metrics import accuracy, error_rate\n"
                             "def learner(learn):\n    learn.metrics = [accuracy, error_rate]\n")
    assert train() == 0
    log = pd.read_csv(RUN.results / "training_log.csv")
    assert log["val_acc"].iloc[0] == pytest.approx(log["accuracy"].iloc[0]) and "macro_auc" in log
    assert log["error_rate"].iloc[0] == pytest.approx(1 - log["accuracy"].iloc[0], abs=1e-5)


def test_lr_find_takes_it_too(workdir, capsys):
    Path("my.py").write_text("def learner(learn):\n    print('seen', type(learn).__name__)\n    return learn\n")
    assert main(["lr_find", "--learner=my.py"]) == 0
    assert "seen FastLearner" in capsys.readouterr().out


@pytest.mark.parametrize(("source", "messages"), [
    (None, ["There is no file 'my.py'"]), ("x = 1\n", ["has no function `learner`"]),
    ("learner = 3\n", ["has no function `learner`"]), ("def learner(learn)\n", ["cannot be run", "SyntaxError"]),
    ("import no_such_package\n", ["cannot be run", 'File "my.py", line 1', "No module named 'no_such_package'"]),
    ("def learner(learn):\n    learn.no_such\n    return 1 / 0\n", [
        "failed; nothing was trained", 'File "my.py", line 2', "AttributeError"]),
    ("def learner(learn):\n    return 3\n", ["returned a int", "return that or nothing"]),
    ("from fastai.losses import *\ndef learner(learn):\n    learn.loss_func = FocalLossFlat\n", [
        "set loss_func to the class FocalLossFlat, not to a loss: FocalLossFlat()"]),
    ("def learner(learn):\n    import torch\n    learn.model = torch.nn.Flatten()\n", ["changed the layers"]),
])
def test_a_mistake_is_shown_with_its_own_traceback_and_leaves_no_run(workdir, capsys, source, messages):
    if source is not None:
        Path("my.py").write_text(source)
    assert train() == 2
    error = capsys.readouterr().err
    assert all(message in error for message in messages) and "busfast/training" not in error
    assert not RUN.results.exists() and not RUN.models.exists()


def test_a_run_is_resumed_with_the_function_that_it_was_started_with(workdir, capsys, monkeypatch):
    Path("my.py").write_text(FOCAL)

    def stop(callback):
        if callback.epoch == 1:
            raise KeyboardInterrupt
    with monkeypatch.context() as patch:
        patch.setattr(WarnCollapse, "before_train", stop, raising=False)
        assert main(["train", "--learner=my.py", "--epochs=2"]) == 130
    capsys.readouterr()
    assert main(["train", "--epochs=2", "--resume"]) == 2
    assert "was started with another --learner. Use its own" in capsys.readouterr().err
    Path("my.py").write_text(FOCAL + "\n")
    assert main(["train", "--epochs=2", "--learner=my.py", "--resume"]) == 2
    assert main(["train", "--epochs=2", f"--learner={RUN.results}/learner.py", "--resume"]) == 0


def test_it_is_for_one_process(workdir, capsys, monkeypatch):
    monkeypatch.setattr("busfast.training.user_learner.processes.world_size", lambda: 2)
    Path("my.py").write_text(FOCAL)
    with pytest.raises(UserError, match="in one process"):
        load_user_learner("my.py")
