"""What every tracker has in common: a failure is said and ends the tracking, never the training."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fastai.callback.core import Callback

from busfast.csvfile import read_frame
from busfast.training.runs import Run


class Tracker(Callback):
    """A fastai callback that takes a run's configuration and files, too.

    A tracker fills in `add` and, where it needs them, `open`, `close` and fastai's events. Where fastai has a callback
    for it, that comes second among its bases: `class TensorBoard(Tracker, TensorBoardCallback)`.

    Args:
        folder: whose tracker it is (fastai's callbacks have a `run` of another meaning).
        known: what tracking.yaml keeps of it from process to process: plain values, to be changed in place.
        done: epochs that were trained before.
        options: of fastai's callback.
    """

    order = 58  # after the log has its row, before the checkpoint: a checkpoint's epochs are all there
    run_valid = False  # its batch events are those of training
    title = ""

    def __init__(self, folder: Run, known: dict[str, Any], done: int = 0, **options):
        super().__init__(**options)
        self.folder, self.known, self.done, self.broken = folder, known, done, False

    def open(self, facts: dict[str, Any]) -> None:
        """Begins, or goes on; `facts` are the run's configuration and record, flat."""

    def add(self, files: Sequence[Path]) -> None:
        """Takes tables (.csv), pictures (.png), pages (.html) and texts (.md, .yaml), some of them once more."""
        raise NotImplementedError

    def close(self, ended_well: bool) -> None:
        """Ends the session."""

    def safely(self, do: Callable[..., None], *args) -> None:
        """Does something unless the tracker has failed before; where it fails now, that is said."""
        if self.broken:
            return
        try:
            do(*args)
        except Exception as error:  # whatever a library, a full disk or a server comes up with
            self.broken = True
            print(f"\n*** WARNING: tracker {self.title}: {str(error).strip() or type(error).__name__} ***\n*** "
                  f"{self.folder.name} goes on without it; results/{self.folder.name}/ has everything. ***", flush=True)

    def __call__(self, event_name: str) -> None:
        self.safely(super().__call__, event_name)


def read_scores(path: Path) -> dict[str, float]:
    """Returns the scores over all images of each part, such as "test/macro_auc", of a metrics.csv."""
    table = read_frame(path, ("part", "by", "score", "estimate"))
    table = table[table["by"] == "all"].dropna(subset="estimate")
    return dict(zip(table["part"] + "/" + table["score"], table["estimate"].astype(float), strict=True))
