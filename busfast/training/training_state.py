"""The state of a training at the end of an epoch: gathered into a checkpoint, and put back."""

import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastai.callback.core import Callback
from fastai.learner import Learner

from busfast.training.callbacks import SaveBest, save_weights
from busfast.training.checkpoint import NAME, write_checkpoint


class Checkpoint(Callback):
    """Writes everything that the following epochs depend on at the end of each.

    What is not stored follows from the epoch: the learning rate, the size of the images, frozen stages; and the wait of
    early stopping is the number of epochs since the best one. It needs the callbacks `SaveBest`, `EarlyStopping` and
    `WarnCollapse`, and `busfast.training.log.TrainingLog`.

    Args:
        folder: where checkpoint.pt goes.

    Attributes:
        seconds: that training took, all its processes together, up to the last checkpoint.
    """

    order = SaveBest.order + 1  # before early stopping can end the fit

    def __init__(self, folder: Path):
        self.folder, self.seconds = folder, 0.0

    def before_fit(self):
        self.began = time.monotonic()

    def after_epoch(self):
        now = time.monotonic()
        self.seconds, self.began = self.seconds + now - self.began, now
        write_checkpoint(self.folder / NAME, self._gather())

    def _gather(self) -> dict[str, Any]:
        learn, best = self.learn, self.save_best
        found = best.best_epoch is not None
        weights = None if best.best_epoch == self.epoch + 1 else best.kept  # none twice
        scaler = getattr(learn, "scaler", None)
        return {"epochs": self.epoch + 1, "model": learn.model.state_dict(), "optimizer": learn.opt.state_dict(),
                "scaler": scaler.state_dict() if scaler is not None else None,
                "best": {"epoch": best.best_epoch, "value": float(best.best), "weights": weights,
                         "probabilities": None if best.probabilities is None
                         else torch.from_numpy(best.probabilities)} if found else None,
                "zeros": dict(self.warn_collapse.zeros), "log": self.training_log.rows, "seconds": self.seconds,
                "random": random_state(learn)}


class Resume(Callback):
    """Puts the state of a checkpoint back and begins with the epoch after it, or with none if training was over.

    The best weights' file and the log are written anew, for they may be those of an epoch after the checkpoint.

    Args:
        state: as `Checkpoint` wrote it.
    """

    order = 2000  # after all others, which begin anew in `before_fit`; nothing may draw a random number after it

    def __init__(self, state: dict[str, Any]):
        self.kept_state = state

    def before_fit(self):
        state, learn, best, stop = self.kept_state, self.learn, self.save_best, self.early_stopping
        done = learn.first_epoch = state["epochs"]
        learn.model.load_state_dict(state["model"])
        learn.opt.load_state_dict(state["optimizer"])
        if state["scaler"] is not None and getattr(learn, "scaler", None) is not None:
            learn.scaler.load_state_dict(state["scaler"])
        if state["best"]:
            best.best_epoch, best.best, weights = (state["best"][key] for key in ("epoch", "value", "weights"))
            best.kept = dict(state["model"] if weights is None else weights)  # as SaveBest keeps it: the same file
            shares = state["best"]["probabilities"]
            best.probabilities = None if shares is None else shares.numpy()
            save_weights(best.kept, best.file)  # the process may have been killed between this file and the checkpoint
        else:
            best.file.unlink(missing_ok=True)
        stop.best, stop.wait = best.best, done - (best.best_epoch or 0)
        self.warn_collapse.zeros, self.training_log.rows = state["zeros"], state["log"]
        self.training_log.write()
        self.checkpoint.seconds = state["seconds"]
        if stop.decide(done):
            learn.first_epoch = learn.n_epoch
        if hasattr(learn, "progress") and getattr(learn.progress, "mbar", None):
            learn.progress.mbar.update(0)  # fastai's bar fails where it does not begin at 0
        set_random_state(learn, state["random"])
        del self.kept_state  # twice the model

    def after_fit(self):
        self.learn.first_epoch = 0


def random_state(learn: Learner) -> dict[str, Any]:
    """Returns the states of all random generators that training draws from: tensors and plain values."""
    kind, keys, *rest = np.random.get_state()
    state = {"python": random.getstate(), "numpy": (kind, keys.tolist(), *rest), "torch": torch.get_rng_state(),
             "loaders": [dl.rng.getstate() for dl in learn.dls.loaders]}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_random_state(learn: Learner, state: dict[str, Any]) -> None:
    """Puts back what `random_state` returned; another machine's GPUs keep their own state."""
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    for dl, own in zip(learn.dls.loaders, state["loaders"], strict=True):
        dl.rng.setstate(own)
    if "cuda" in state and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])
