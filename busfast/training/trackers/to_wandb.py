"""Weights & Biases: an offline run in the run's folder, by fastai's callback."""

import glob
import os
import shlex
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # before wandb is imported
os.environ.setdefault("WANDB_SILENT", "true")

import wandb  # noqa: E402
from fastai.callback.wandb import WandbCallback  # noqa: E402

from busfast.csvfile import read_frame  # noqa: E402
from busfast.training.runs import Run  # noqa: E402
from busfast.training.trackers.base import Tracker, read_scores  # noqa: E402

# Neither host, user, program, packages, git state nor output are recorded; the configuration is.
QUIET = {"console": "off", "disable_git": True, "disable_code": True, "x_disable_meta": True,
         "x_disable_stats": True, "x_disable_machine_info": True, "x_save_requirements": False, "symlink": False}
DATA_DIR_SET = "WANDB_DATA_DIR" in os.environ  # staging of tables; the default is in the user's home


class WeightsAndBiases(Tracker, WandbCallback):
    """Curves by fastai, configuration, scores in the summary, and tables, images, pages and texts as files."""

    title = "wandb"

    def __init__(self, tracked_run: Run, state: dict[str, Any], done: int = 0):
        super().__init__(tracked_run, state, done, log_preds=False)  # predictions are images of patients

    def open(self, config: dict[str, Any]) -> None:
        """Starts a session of the run; sessions with the same id become one run when they are uploaded."""
        pipeline, _, name = self.tracked_run.name.partition("/")
        folder = self.tracked_run.results.absolute()  # W&B's own process may have another working directory
        if not DATA_DIR_SET:
            os.environ["WANDB_DATA_DIR"] = str(folder / "wandb")
        self.session = wandb.init(
            mode=os.environ.get("WANDB_MODE", "offline"), project=os.environ.get("WANDB_PROJECT", pipeline), name=name,
            id=self.state.setdefault("id", uuid.uuid4().hex), resume="allow", dir=folder, config=config,
            settings=wandb.Settings(**QUIET))

    def before_fit(self):
        # fastai's own draws a batch, which changes the random numbers of training, and logs too much.
        self._wandb_step, self._wandb_epoch = self.done * len(self.dls.train) - 1, self.done

    def after_batch(self):  # fastai's own logs every option of the optimizer
        self._wandb_step += 1
        self._wandb_epoch += 1 / self.n_iter
        wandb.log({"epoch": self._wandb_epoch, "train_loss": self.smooth_loss}, step=self._wandb_step)

    def after_epoch(self):
        super().after_epoch()
        row = self.training_log.rows[-1]
        wandb.log({name: float(row[name]) for name in ("lr", "seconds")}, step=self._wandb_step)

    def add_files(self, files: Sequence[Path]) -> None:
        for path in files:
            self.session.save(glob.escape(str(path)), base_path=path.parent, policy="now")
            if path.suffix == ".csv":
                self.session.summary[f"tables/{path.stem}"] = wandb.Table(dataframe=read_frame(path, empty=True))
            if path.name == "metrics.csv":
                self.session.summary.update(read_scores(path))

    def look(self) -> str:
        folder = shlex.quote(os.path.relpath(Path(self.session.dir).parent))
        return self.session.url or f"wandb leet inspect --summary {folder}"

    def close(self, succeeded: bool) -> None:
        self.session.finish(exit_code=0 if succeeded else 1)
