"""Losses that stay on the device: the host reads them now and then, and does not wait for the device in each batch."""

import sys

import cloudpickle
import torch
from fastai.callback.core import Callback
from fastai.callback.progress import ProgressCallback
from fastai.learner import AvgSmoothLoss, Learner, Recorder

EVERY = 50  # batches


def look_every(device: torch.device) -> int:
    """Returns after how many batches the host looks at a loss: on a CPU, where that costs nothing, at once."""
    return 1 if device.type == "cpu" else EVERY


class SmoothLoss(AvgSmoothLoss):
    """fastai's, on the device of the loss."""

    def accumulate(self, learn):
        loss = learn.loss.detach().mean()
        self.val = torch.lerp(loss, self.val if self.count else torch.zeros_like(loss), self.beta)
        self.count += 1


class RareProgress(ProgressCallback):
    """fastai's bar, which shows the loss of every 50th batch."""

    name = "progress"

    def after_batch(self):
        self.pbar.update(self.iter + 1)
        if self.training and self.iter % EVERY == 0:
            self.pbar.comment = f"{self.smooth_loss.item():.4f}"


class LossesToHost(Callback):
    """Moves the losses that the Recorder has kept to the CPU at the end of an epoch, for `plot_loss`."""

    order = Recorder.order + 1

    def after_train(self):
        losses = self.recorder.losses
        if losses and losses[-1].device.type != "cpu":
            self.recorder.losses = list(torch.stack([loss.to(losses[-1].device) for loss in losses]).cpu())


def look_rarely(learn: Learner) -> None:
    """Makes a Learner on a GPU look at its losses rarely; on a CPU nothing changes."""
    if learn.dls.device.type == "cpu" or isinstance(learn.recorder.smooth_loss, SmoothLoss):
        return
    learn.recorder.smooth_loss = SmoothLoss(learn.recorder.smooth_loss.beta)
    learn.add_cb(LossesToHost())
    if getattr(learn, "progress", None) is not None:
        learn.remove_cbs(ProgressCallback)
        learn.add_cb(RareProgress())


# A learner exported with these must load where busfast is not installed.
cloudpickle.register_pickle_by_value(sys.modules[__name__])
