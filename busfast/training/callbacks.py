"""fastai callbacks of a run, one concern each. Epochs are counted from 1, as in the log."""

from pathlib import Path

import numpy as np
import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.callback.tracker import EarlyStoppingCallback, SaveModelCallback, TrackerCallback

from busfast.errors import choose
from busfast.files import atomic
from busfast.models.metrics import MacroAUC
from busfast.training.checkpoint import save_tensors

COLLAPSED = 3  # epochs in a row


def save_weights(weights: dict[str, torch.Tensor], path: Path) -> Path:
    """Writes a model's weights atomically; `torch.load(path, weights_only=True)` reads them."""
    with atomic(path, "wb") as file:
        save_tensors(weights, file)
    return path


def monitor_with(monitor: str, measures: tuple[str, ...]) -> dict:
    """Returns fastai's arguments for watching a logged column; UserError, before training, if there is none."""
    choose("monitor", monitor, measures)
    return {"monitor": monitor, "comp": np.less if monitor in ("train_loss", "val_loss") else np.greater}


class SaveBest(SaveModelCallback):
    """Saves the best epoch's weights atomically and loads them into the model at the end of the fit.

    `best_epoch` counts from 1, None while every value was NaN; `best_state` are its weights, on the CPU;
    `probabilities`, float32 (N, k), its predictions for the validation images, in order; None without `MacroAUC`.
    """

    def __init__(self, path: Path, **kwargs):
        super().__init__(fname=path.stem, **kwargs)
        self.file, self.best_epoch, self.best_state, self.probabilities = path, None, None, None

    def after_epoch(self):
        TrackerCallback.after_epoch(self)
        if self.new_best:
            self.best_state = {name: value.detach().cpu().clone()
                               for name, value in self.learn.model.state_dict().items()}
            self.probabilities = next((metric.seen[0] for metric in self.learn.metrics
                                       if isinstance(metric, MacroAUC) and metric.seen is not None), None)
            self.last_saved_path = save_weights(self.best_state, self.file)
            self.best_epoch = self.epoch + 1

    def after_fit(self):
        if self.best_epoch is not None:  # else best.pth, if there is one, is an older fit's
            self.learn.model.load_state_dict(self.best_state)


class SaveFinal(Callback):
    """Saves the last epoch's weights, before `SaveBest` loads the best ones."""

    order = SaveBest.order - 1

    def __init__(self, path: Path):
        self.file = path

    def after_fit(self):
        save_weights(self.learn.model.state_dict(), self.file)


class EarlyStopping(EarlyStoppingCallback):
    """fastai's, which prints the epoch as the log counts it and does not stop after the last one."""

    stopped = False

    def after_epoch(self):
        TrackerCallback.after_epoch(self)
        self.wait = 0 if self.new_best else self.wait + 1
        if self.decide(self.epoch + 1):
            raise CancelFitException

    def decide(self, done: int) -> bool:
        """Decides whether to stop after `done` epochs; prints and returns it."""
        self.stopped = self.wait >= self.patience and done < self.n_epoch
        if self.stopped:
            print(f"no better {self.monitor} since epoch {done - self.wait}: stopping early")
        return self.stopped


class WarnCollapse(Callback):
    """Warns when the sensitivity for a class has been 0 for some epochs."""

    order = 56

    def before_fit(self):
        self.zeros = {}

    def after_epoch(self):
        values = dict(zip(self.recorder.metric_names[1:], self.recorder.values[-1], strict=False))
        warned = {}  # number of epochs -> classes
        for name, value in values.items():
            if name.startswith("recall_"):
                self.zeros[name] = self.zeros.get(name, 0) + 1 if value == 0 else 0
                if self.zeros[name] and self.zeros[name] % COLLAPSED == 0:
                    warned.setdefault(self.zeros[name], []).append(name.removeprefix("recall_"))
        for epochs, names in warned.items():
            these = "this class" if len(names) == 1 else "these classes"
            print(f"\n*** WARNING: the sensitivity for {', '.join(names)} has been 0 for {epochs} epochs: the model no "
                  f"longer predicts {these}. ***\n*** Try a lower --lr, pretrained --weights, or more images of it. "
                  "***\n")
