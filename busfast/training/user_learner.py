"""`--learner=FILE`: a function of the user's own that changes the Learner before it trains."""

import hashlib
import runpy
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from busfast import processes
from busfast.errors import UserError
from busfast.once import say

if TYPE_CHECKING:  # a missing file is refused before torch is imported
    import torch
    from fastai.learner import Learner

FUNCTION = "learner"


@dataclass(frozen=True)
class UserLearner:
    """A file of the user's and its function."""

    path: Path
    source: bytes
    function: Callable[["Learner"], "Learner | None"]

    @property
    def record(self) -> dict[str, str]:
        """What a run's config.yaml keeps of it, beside the copy in the run's folder."""
        return {"file": str(self.path), "sha256": hashlib.sha256(self.source).hexdigest()}

    def apply(self, learn: "Learner") -> None:
        """Calls the function, which changes the Learner; the log keeps its own metrics, beside the user's.

        Raises:
            UserError: it raises (with its own traceback), returns something else, or changes the model's weights in a
                way that no other verb could load.
        """
        before, own = _shapes(learn), list(learn.metrics)
        try:
            made = self.function(learn)
        except Exception as error:
            raise UserError(f"{FUNCTION}() of {self.path} failed; nothing was trained.\n"
                            f"{_own_traceback(error, self.path)}") from error
        if made is not None and made is not learn:
            raise UserError(f"{FUNCTION}() of {self.path} returned a {type(made).__name__}. Change the Learner that it "
                            "is given, and return that or nothing.")
        if _shapes(learn) != before:
            raise UserError(f"{FUNCTION}() of {self.path} changed the layers of the model, so that evaluate and export "
                            "could not load its weights. Choose another model with --arch, or train in Python "
                            "(busfast.learner).")
        if isinstance(learn.loss_func, type):
            name = learn.loss_func.__name__
            raise UserError(f"{FUNCTION}() of {self.path} set loss_func to the class {name}, not to a loss: {name}().")
        names = {metric.name for metric in own}
        learn.metrics = [*own, *(metric for metric in learn.metrics if metric.name not in names)]
        say(f"learner: changed by {self.path}")


def load_user_learner(path: str | Path) -> UserLearner:
    """Runs a Python file that the user asks for by name, and returns its function `learner`.

    Raises:
        UserError: there is no such file, it cannot be run, has no such function, or several processes would run it.
    """
    path = Path(path)
    if processes.world_size() > 1:
        raise UserError(f"--learner={path} is for training in one process. Start it without torchrun.")
    if not path.is_file():
        raise UserError(f"There is no file '{path}' (--learner). Write one with a function: def {FUNCTION}(learn): ...")
    source = path.read_bytes()
    try:
        found = runpy.run_path(str(path)).get(FUNCTION)
    except Exception as error:
        raise UserError(f"{path} (--learner) cannot be run.\n{_own_traceback(error, path)}") from error
    if not callable(found):
        raise UserError(f"{path} (--learner) has no function `{FUNCTION}`. Write one that changes the Learner it is "
                        f"given, such as its loss_func or callbacks: def {FUNCTION}(learn): ...")
    return UserLearner(path, source, found)


def _shapes(learn: "Learner") -> dict[str, "torch.Size"]:
    return {name: value.shape for name, value in learn.model.state_dict().items()}


def _own_traceback(error: BaseException, path: Path) -> str:
    """Returns the traceback from the user's file on."""
    frames: Any = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename != str(path):
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames)).rstrip()
