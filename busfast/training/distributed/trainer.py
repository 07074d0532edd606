"""Callbacks with which several ranks train one model, each on its share of every batch, as one process would."""

import warnings

import numpy as np
import torch
import torch.nn.functional as F
from accelerate.utils import DistributedDataParallelKwargs
from fastai.callback.core import Callback, CancelFitException
from fastai.distributed import DistributedTrainer

from busfast import processes
from busfast.training.callbacks import EarlyStopping
from busfast.training.distributed.collectives import all_reduce_sum, broadcast_state
from busfast.training.distributed.sync_batchnorm import has_batch_norm, sync_batch_norm
from busfast.training.training_state import Resume


class ExactDistributedTrainer(DistributedTrainer):
    """fastai's distributed trainer (Accelerate's, that is torch's DistributedDataParallel), made exact.

    fastai's own loader counts some images twice; here `ImageDL` divides each batch among the ranks. Loss and
    predictions of a batch are gathered from all ranks, so that log, metrics, early stopping and the guard against NaN
    see in each rank what a single process would see. The model is wrapped for the training part of an epoch only:
    validation, checkpoints and frozen stages use the bare one.

    Args:
        device: where this rank trains.
        seed: of the run. Randomness within the model (dropout) differs between ranks and depends only on seed, rank
            and epoch, so that a resumed run draws the same; rank 0 draws what a single process would.
    """

    def __init__(self, device: torch.device, seed: int):
        self.device_, self.seed = device, seed
        with processes.launcher_environment():
            # broadcast_buffers=False: all ranks have the same buffers, since they normalize the whole batch.
            super().__init__(sync_bn=False, cpu=device.type == "cpu", mixed_precision="no",
                             kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)])

    def before_fit(self):
        self.learn.model = sync_batch_norm(self.model, self.device_)
        self.has_batch_norm = has_batch_norm(self.model)
        self.weight = self.loss_func.func.weight
        self.loss_func.reduction = "sum"

    def before_train(self):
        if processes.rank():
            seeds = np.random.SeedSequence([self.seed, processes.rank(), self.epoch]).generate_state(1)
            torch.manual_seed(int(seeds[0]))
        # Wrapped anew in each epoch: stages may have been frozen, and a resumed run then sums in the same order.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")  # in torch 2.14
            super().before_fit()

    def before_batch(self):
        """A rank without an image gives a model without batch normalization a blank one; `after_pred` drops it."""
        if len(self.xb[0]) == 0 and not self.has_batch_norm:
            self.learn.xb = (self.xb[0].new_zeros((1, *self.xb[0].shape[1:])),)

    def after_pred(self):
        self.learn.pred = self.pred[:len(self.yb[0])]

    def after_loss(self):
        dl = self.learn.dl
        targets = torch.stack(dl.targets(dl.indices)).view(-1).to(self.pred.device)
        pred = torch.zeros((len(targets), self.pred.shape[1]), device=targets.device)
        pred[dl.own] = self.pred.detach().float()
        all_reduce_sum(pred)
        if self.training:  # DistributedDataParallel averages the gradients of all ranks, which gives the batch's own
            self.learn.loss_grad = self.loss_grad * (processes.world_size() / self.weight[targets].sum())
        self.learn.loss = F.cross_entropy(pred, targets, weight=self.weight,
                                          label_smoothing=self.loss_func.func.label_smoothing)
        self.learn.pred, self.learn.yb = pred, (targets,)

    def after_train(self):
        super().after_fit()
        self.accelerator.free_memory()

    def before_validate(self):
        """The parent would wrap the DataLoader."""

    def after_fit(self):
        self.loss_func.reduction = "mean"

    def _wrap_dl(self, dl):
        return dl


class BroadcastState(Callback):
    """Gives every rank the state of rank 0, which may come from a checkpoint."""

    order = Resume.order + 1

    def before_fit(self):
        learn, scaler = self.learn, getattr(self.learn, "scaler", None)
        state = broadcast_state({
            "model": learn.model.state_dict(), "epoch": learn.first_epoch,
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
        for dl, rng_state in zip(self.dls.loaders, state["loaders"], strict=True):
            dl.rng.setstate(rng_state)


class SyncEarlyStopping(Callback):
    """Ends the fit of every rank when rank 0 ends its own: rounding must not make them disagree."""

    order = EarlyStopping.order + 1

    def after_epoch(self):
        if self._rank_0_stops(False):
            raise CancelFitException

    def after_cancel_fit(self):
        if processes.rank() == 0:
            self._rank_0_stops(True)

    def _rank_0_stops(self, stops: bool) -> bool:
        flag = torch.tensor([int(stops and processes.rank() == 0)], device=self.dls.device)
        return bool(all_reduce_sum(flag))
