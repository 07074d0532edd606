"""Callbacks with which several processes train one model, each on its share of every batch, as one process would."""

import warnings

import numpy as np
import torch
import torch.nn.functional as F
from accelerate.utils import DistributedDataParallelKwargs
from fastai.callback.core import Callback, CancelFitException
from fastai.distributed import DistributedTrainer

from busfast import processes
from busfast.training.callbacks import EarlyStopping
from busfast.training.distributed.store import all_reduce_sum, broadcast_state
from busfast.training.distributed.sync_batchnorm import has_batch_norm, norm_whole_batch
from busfast.training.training_state import Resume


class ExactDistributedTrainer(DistributedTrainer):
    """fastai's trainer in several processes (Accelerate's, and so torch's DistributedDataParallel), made exact.

    fastai's own shares the images out by a loader that counts some of them twice; here `ImageDL` shares each batch.
    Loss and predictions of a batch are put together from all shares, so that whatever looks at them (log, metrics,
    early stopping, the guard against NaN) sees in each process what a single one would see. The model is wrapped for
    the training part of an epoch alone: validation, checkpoints and frozen stages have the bare one.

    Args:
        device: where this process trains.
        seed: of the run. What is random within the model (dropout) differs between processes, and depends on seed,
            process and epoch alone, so that a run that goes on has the same; the first process has what it would have
            alone.
    """

    def __init__(self, device: torch.device, seed: int):
        self.on, self.seed = device, seed
        with processes.launcher_environment():
            # broadcast_buffers: all processes have the same, for they normalise the whole batch.
            super().__init__(sync_bn=False, cpu=device.type == "cpu", mixed_precision="no",
                             kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)])

    def before_fit(self):
        self.learn.model = norm_whole_batch(self.model, self.on)
        self.normed = has_batch_norm(self.model)
        self.weight = self.loss_func.func.weight
        self.loss_func.reduction = "sum"

    def before_train(self):
        if processes.rank():
            seeds = np.random.SeedSequence([self.seed, processes.rank(), self.epoch]).generate_state(1)
            torch.manual_seed(int(seeds[0]))
        # Anew in each epoch: stages may have been frozen; and sums are then made in the same order after a stop.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")  # torch 2.14; older need it
            super().before_fit()

    def before_batch(self):
        """Where there is no image, a model without batch normalisation has a blank one; `after_pred` drops it."""
        if len(self.xb[0]) == 0 and not self.normed:
            self.learn.xb = (self.xb[0].new_zeros((1, *self.xb[0].shape[1:])),)

    def after_pred(self):
        self.learn.pred = self.pred[:len(self.yb[0])]

    def after_loss(self):
        dl = self.learn.dl
        targets = torch.stack(dl.targets(dl.indices)).view(-1).to(self.pred.device)
        whole = torch.zeros((len(targets), self.pred.shape[1]), device=targets.device)
        whole[dl.own] = self.pred.detach().float()
        whole = all_reduce_sum(whole)
        if self.training:  # the mean over all processes, which the gradient will be, is then that of the whole batch
            self.learn.loss_grad = self.loss_grad * (processes.world_size() / self.weight[targets].sum())
        self.learn.loss = F.cross_entropy(whole, targets, weight=self.weight)
        self.learn.pred, self.learn.yb = whole, (targets,)

    def after_train(self):
        super().after_fit()
        self.accelerator.free_memory()

    def before_validate(self):
        """The parent's would wrap the DataLoader."""

    def after_fit(self):
        self.loss_func.reduction = "mean"

    def _wrap_dl(self, dl):
        return dl


class BroadcastState(Callback):
    """Gives every process the state of the first one, which may have been read from a checkpoint."""

    order = Resume.order + 1

    def before_fit(self):
        learn, scaler = self.learn, getattr(self.learn, "scaler", None)
        state = broadcast_state({"model": learn.model.state_dict(), "epoch": learn.first_epoch,
                            "optimizer": learn.opt.state_dict() if learn.first_epoch else None,
                            "scaler": scaler.state_dict() if scaler is not None else None,
                            "loaders": [dl.rng.getstate() for dl in self.dls.loaders]}, self.dls.device)
        if processes.rank() == 0:
            return
        learn.model.load_state_dict(state["model"])
        if state["optimizer"]:
            learn.opt.load_state_dict(state["optimizer"])
        if scaler is not None:
            scaler.load_state_dict(state["scaler"])
        learn.first_epoch = state["epoch"]
        for dl, own in zip(self.dls.loaders, state["loaders"], strict=True):
            dl.rng.setstate(own)


class SyncEarlyStopping(Callback):
    """Ends the fit of every process where the first one ends its own: a rounding must not make them disagree."""

    order = EarlyStopping.order + 1

    def after_epoch(self):
        if self._first_says(False):
            raise CancelFitException

    def after_cancel_fit(self):
        if processes.rank() == 0:
            self._first_says(True)

    def _first_says(self, stops: bool) -> bool:
        said = torch.tensor([int(stops and processes.rank() == 0)], device=self.dls.device)
        return bool(all_reduce_sum(said))

