"""TensorBoard: event files in the run's folder, by fastai's callback."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fastai.callback.tensorboard import TensorBoardCallback
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from busfast.csvfile import read_frame
from busfast.training.runs import Run
from busfast.training.trackers.base import Tracker


class TensorBoard(Tracker, TensorBoardCallback):
    """Scalars by fastai; pictures as images; configuration, tables and texts as text. It shows no HTML."""

    title = "tensorboard"

    def __init__(self, folder: Run, known: dict[str, Any], done: int = 0):
        # No graph of the model, for which a batch is drawn; no predictions, which are pictures of patients.
        super().__init__(folder, known, done, log_dir=folder.results / "tensorboard", trace_model=False,
                         log_preds=False)

    def _setup_writer(self):  # fastai's, called at the beginning of a fit
        self.learn.train_iter = self.done * len(self.dls.train)
        # What a stopped process logged after its checkpoint comes once more; TensorBoard forgets the first time.
        self.writer = SummaryWriter(self.log_dir, purge_step=self.learn.train_iter + 1)

    def after_batch(self):  # not fastai's, which takes each option of the optimizer for a number
        self.writer.add_scalar("train_loss", self.smooth_loss, self.train_iter)

    def after_epoch(self):
        super().after_epoch()
        row = self.training_log.rows[-1]
        for name in ("epoch", "lr", "seconds"):
            self.writer.add_scalar(name, float(row[name]), self.train_iter)
        self.writer.flush()

    def add(self, files: Sequence[Path]) -> None:
        with SummaryWriter(self.log_dir) as writer:
            for path in files:
                if path.suffix == ".png":
                    writer.add_image(path.stem, np.asarray(Image.open(path).convert("RGB")), dataformats="HWC")
                elif path.suffix == ".csv":
                    table = read_frame(path, empty=True)
                    writer.add_text(path.stem, _table(table.columns, table.itertuples(index=False)))
                elif path.suffix != ".html":
                    text = path.read_text(encoding="utf-8")
                    writer.add_text(path.stem, text if path.suffix == ".md" else f"```\n{text}\n```")

    def close(self, ended_well: bool) -> None:
        if hasattr(self, "writer"):  # an interrupted fit did not close it
            self.writer.close()


def _table(columns, rows) -> str:
    """Markdown, which TensorBoard shows as a table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
