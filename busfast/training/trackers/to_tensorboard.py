"""TensorBoard: event files in the run's folder, by fastai's callback."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fastai.callback.tensorboard import TensorBoardCallback
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from busfast.csvfile import read_frame
from busfast.text import markdown_table
from busfast.training.runs import RESULTS, Run
from busfast.training.trackers.base import Tracker


class TensorBoard(Tracker, TensorBoardCallback):
    """Scalars by fastai, images, and configuration, tables and texts as text. TensorBoard shows no HTML."""

    title = "tensorboard"

    def __init__(self, tracked_run: Run, state: dict[str, Any], done: int = 0):
        # trace_model would draw a batch, and so random numbers; log_preds would log images of patients.
        super().__init__(tracked_run, state, done, log_dir=tracked_run.results / "tensorboard", trace_model=False,
                         log_preds=False)

    def _setup_writer(self):  # fastai calls it at the start of a fit
        self.learn.train_iter = self.done * len(self.dls.train)
        # Steps that an interrupted process logged after its last checkpoint are logged again; the old ones are purged.
        self.writer = SummaryWriter(self.log_dir, purge_step=self.learn.train_iter + 1)

    def after_batch(self):  # fastai's own fails on optimizer options that are not numbers
        self.writer.add_scalar("train_loss", self.smooth_loss, self.train_iter)

    def after_epoch(self):
        super().after_epoch()
        row = self.training_log.rows[-1]
        for name in ("epoch", "lr", "seconds"):
            self.writer.add_scalar(name, float(row[name]), self.train_iter)
        self.writer.flush()

    def add_files(self, files: Sequence[Path]) -> None:
        with SummaryWriter(self.log_dir) as writer:
            for path in files:
                if path.suffix == ".png":
                    writer.add_image(path.stem, np.asarray(Image.open(path).convert("RGB")), dataformats="HWC")
                elif path.suffix == ".csv":
                    table = read_frame(path, empty=True)
                    writer.add_text(path.stem, markdown_table(list(table), table.itertuples(index=False)))
                elif path.suffix != ".html":
                    text = path.read_text(encoding="utf-8")
                    writer.add_text(path.stem, text if path.suffix == ".md" else f"```\n{text}\n```")

    def look(self) -> str:
        return f"tensorboard --logdir={RESULTS}"

    def close(self, succeeded: bool) -> None:
        if hasattr(self, "writer"):  # an interrupted fit did not close it
            self.writer.close()
