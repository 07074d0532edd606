"""What every tracker has in common: one that fails prints a warning and drops out; the training continues."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fastai.callback.core import Callback

from busfast.csvfile import read_frame
from busfast.training.runs import Run


class Tracker(Callback):
    """A fastai callback that also takes a run's configuration and files.

    A tracker defines `add_files` and, where it needs them, `open`, `close` and fastai's events. If fastai has a
    callback for it, that is its second base: `class TensorBoard(Tracker, TensorBoardCallback)`. `state` is what
    tracking.yaml keeps of it between processes: plain values, changed in place.
    """

    order = 58  # after the log's row, before the checkpoint: the epochs of a checkpoint are all tracked
    run_valid = False  # batch events of training only
    title = ""

    def __init__(self, tracked_run: Run, state: dict[str, Any], done: int = 0, **options):
        super().__init__(**options)
        self.tracked_run, self.state, self.done, self.broken = tracked_run, state, done, False

    def open(self, config: dict[str, Any]) -> None:
        """Starts or continues the tracker's run; `config` is config.yaml, with dotted keys for nested ones."""

    def add_files(self, files: Sequence[Path]) -> None:
        """Adds or replaces tables (.csv), images (.png), pages (.html) and texts (.md, .yaml)."""
        raise NotImplementedError

    def look(self) -> str:
        """Returns the command, or address, that shows the run once it is open."""
        raise NotImplementedError

    def close(self, succeeded: bool) -> None:
        """Ends the session."""

    def attempt(self, call: Callable[..., None], *args) -> None:
        """Calls a function unless the tracker is broken; an exception breaks it, with a warning."""
        if self.broken:
            return
        try:
            call(*args)
        except Exception as error:  # of a library, a full disk or a server
            self.broken = True
            name = self.tracked_run.name
            print(f"\n*** WARNING: tracker {self.title}: {str(error).strip() or type(error).__name__} ***\n*** "
                  f"{name} continues without it; results/{name}/ has everything. ***")

    def __call__(self, event_name: str) -> None:
        self.attempt(super().__call__, event_name)


def read_scores(path: Path) -> dict[str, float]:
    """Returns the scores over all images of each part, such as "test/macro_auc", from metrics.csv."""
    table = read_frame(path, ("part", "by", "score", "estimate"))
    table = table[table["by"] == "all"].dropna(subset="estimate")
    return dict(zip(table["part"] + "/" + table["score"], table["estimate"].astype(float), strict=True))
