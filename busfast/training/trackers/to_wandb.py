"""Weights & Biases: an offline run in the run's folder, by fastai's callback."""

import glob
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # before it is imported
os.environ.setdefault("WANDB_SILENT", "true")

import wandb  # noqa: E402
from fastai.callback.wandb import WandbCallback  # noqa: E402

from busfast.csvfile import read_frame  # noqa: E402
from busfast.training.runs import Run  # noqa: E402
from busfast.training.trackers.base import Tracker, read_scores  # noqa: E402

# Host, user, program, packages, git state and what was printed are nobody's business; config has what a run depends on.
QUIET = {"console": "off", "disable_git": True, "disable_code": True, "x_disable_meta": True,
         "x_disable_stats": True, "x_disable_machine_info": True, "x_save_requirements": False, "symlink": False}
ELSEWHERE = "WANDB_DATA_DIR" in os.environ  # tables wait there to be uploaded; by default in the user's home


class WeightsAndBiases(Tracker, WandbCallback):
    """Curves by fastai; configuration; scores in the summary; tables, pictures, pages and texts as the run's files."""

    title = "wandb"

    def __init__(self, folder: Run, known: dict[str, Any], done: int = 0):
        super().__init__(folder, known, done, log_preds=False)  # predictions are pictures of patients

    def open(self, facts: dict[str, Any]) -> None:
        """Begins a session of the run; several of one id are one run where they are uploaded."""
        pipeline, _, name = self.folder.name.partition("/")
        place = self.folder.results.absolute()  # W&B's own process may work elsewhere
        if not ELSEWHERE:
            os.environ["WANDB_DATA_DIR"] = str(place / "wandb")
        self.session = wandb.init(
            mode=os.environ.get("WANDB_MODE", "offline"), project=os.environ.get("WANDB_PROJECT", pipeline), name=name,
            id=self.known.setdefault("id", uuid.uuid4().hex), resume="allow", dir=place, config=facts,
            settings=wandb.Settings(**QUIET))

    def before_fit(self):
        # Not fastai's: it draws a batch, so that the random numbers after it are others, and logs more than it should.
        self._wandb_step, self._wandb_epoch = self.done * len(self.dls.train) - 1, self.done

    def after_batch(self):  # not fastai's, which logs each option of the optimizer
        self._wandb_step += 1
        self._wandb_epoch += 1 / self.n_iter
        wandb.log({"epoch": self._wandb_epoch, "train_loss": self.smooth_loss}, step=self._wandb_step)

    def after_epoch(self):
        super().after_epoch()
        row = self.training_log.rows[-1]
        wandb.log({name: float(row[name]) for name in ("lr", "seconds")}, step=self._wandb_step)

    def add(self, files: Sequence[Path]) -> None:
        for path in files:
            self.session.save(glob.escape(str(path)), base_path=path.parent, policy="now")
            if path.suffix == ".csv":
                self.session.summary[f"tables/{path.stem}"] = wandb.Table(dataframe=read_frame(path, empty=True))
            if path.name == "metrics.csv":
                self.session.summary.update(read_scores(path))

    def close(self, ended_well: bool) -> None:
        self.session.finish(exit_code=0 if ended_well else 1)
