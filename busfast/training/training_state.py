"""The state of a training at the end of an epoch: collected into a checkpoint, and restored from it."""

import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastai.callback.core import Callback
from fastai.learner import Learner

from busfast.errors import UserError
from busfast.models.averaging import AveragedWeights
from busfast.training.callbacks import EarlyStopping, SaveBest, WarnCollapse, save_weights
from busfast.training.checkpoint import NAME, write_checkpoint
from busfast.training.log import TrainingLog


class Checkpoint(Callback):
    """Writes at the end of each epoch everything that the next epochs depend on.

    What follows from the epoch is not stored: learning rate, frozen stages, and early stopping's wait, which is the
    number of epochs since the best one. `seconds` of training include earlier processes of a resumed run.
    """

    order = SaveBest.order + 1  # before early stopping can end the fit

    def __init__(self, folder: Path, log: TrainingLog, best: SaveBest, collapse: WarnCollapse):
        self.folder, self.log, self.best, self.collapse, self.seconds = folder, log, best, collapse, 0.0

    def before_fit(self):
        self.began = time.monotonic()

    def after_epoch(self):
        now = time.monotonic()
        self.seconds, self.began = self.seconds + now - self.began, now
        write_checkpoint(self.folder / NAME, self._state())

    def _state(self) -> dict[str, Any]:
        learn, best, scaler = self.learn, self.best, getattr(self.learn, "scaler", None)
        averaged = averaged_weights(learn)
        best_state = None if best.best_epoch is None else {
            "epoch": best.best_epoch, "value": float(best.best),
            "weights": None if best.best_epoch == self.epoch + 1 else best.best_state,  # None: those of the model
            "probabilities": None if best.probabilities is None else torch.from_numpy(best.probabilities)}
        return {"epochs": self.epoch + 1, "model": learn.model.state_dict(), "optimizer": learn.opt.state_dict(),
                "scaler": scaler.state_dict() if scaler is not None else None, "best": best_state,
                "averaged": averaged.state() if averaged is not None else None,  # "model" is the average
                "zeros": dict(self.collapse.zeros), "log": self.log.rows, "seconds": self.seconds,
                "random": random_state(learn)}


class Resume(Callback):
    """Restores a checkpoint and continues with the epoch after it, or with none if early stopping was due.

    best.pth and the log are written again, since they may be those of an epoch after the checkpoint.
    """

    order = 2000  # after all others, which reset their state in `before_fit`; nothing may draw a random number later

    def __init__(self, state: dict[str, Any], checkpoint: Checkpoint, stop: EarlyStopping):
        self.saved_state, self.saver, self.stop = state, checkpoint, stop

    def before_fit(self):
        state, learn, saver, best = self.saved_state, self.learn, self.saver, self.saver.best
        done = learn.first_epoch = state["epochs"]
        learn.model.load_state_dict(state["model"])
        if (averaged := averaged_weights(learn)) is not None:
            averaged.load(state["averaged"], state["model"])
        try:
            learn.opt.load_state_dict(state["optimizer"])
        except ValueError as error:  # torch's, of other groups of parameters
            raise UserError(f"The checkpoint in {saver.folder} is of another version of busfast, whose optimizer has "
                            "other parameter groups. Train again without --resume; this run stays as it is.") from error
        if state["scaler"] and getattr(learn, "scaler", None) is not None:  # bfloat16 needs no scale
            learn.scaler.load_state_dict(state["scaler"])
        if state["best"]:
            best.best_epoch, best.best, weights = (state["best"][key] for key in ("epoch", "value", "weights"))
            best.best_state = dict(state["model"] if weights is None else weights)  # a dict gives SaveBest's bytes
            probabilities = state["best"]["probabilities"]
            best.probabilities = None if probabilities is None else probabilities.numpy()
            save_weights(best.best_state, best.file)  # a kill may have come between best.pth and the checkpoint
        else:
            best.file.unlink(missing_ok=True)
        self.stop.best, self.stop.wait = best.best, done - (best.best_epoch or 0)
        saver.collapse.zeros, saver.log.rows, saver.seconds = state["zeros"], state["log"], state["seconds"]
        saver.log.write()
        if self.stop.decide(done):
            learn.first_epoch = learn.n_epoch
        if hasattr(learn, "progress") and getattr(learn.progress, "mbar", None):
            learn.progress.mbar.update(0)  # fastai's bar fails where it does not begin at 0
        set_random_state(learn, state["random"])
        del self.saved_state  # as large as two models

    def after_fit(self):
        self.learn.first_epoch = 0


def averaged_weights(learn: Learner) -> AveragedWeights | None:
    """Returns the callback that averages the weights, if there is one."""
    return next((cb for cb in learn.cbs if isinstance(cb, AveragedWeights)), None)


def random_state(learn: Learner) -> dict[str, Any]:
    """Returns the state of every random generator of a training: tensors and plain values."""
    kind, keys, *rest = np.random.get_state()
    state = {"python": random.getstate(), "numpy": (kind, keys.tolist(), *rest), "torch": torch.get_rng_state(),
             "loaders": [dl.rng.getstate() for dl in learn.dls.loaders]}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_random_state(learn: Learner, state: dict[str, Any]) -> None:
    """Restores what `random_state` returned; a different number of GPUs keeps its own state."""
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    for dl, rng_state in zip(learn.dls.loaders, state["loaders"], strict=True):
        dl.rng.setstate(rng_state)
    if "cuda" in state and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])
