"""The parts that make a step fast, each by itself: on unless `make_learner(parts=...)` leaves it out."""

import sys
from collections.abc import Iterable
from contextlib import nullcontext

import cloudpickle
import torch
from fastai.callback.core import Callback, CancelEpochException
from fastai.callback.fp16 import MixedPrecision
from fastai.learner import Learner
from fastai.optimizer import OptimWrapper
from torch import nn

from busfast.errors import choose

# None but amp changes what is computed by more than rounding.
PARTS = {
    "channels_last": "model and batches keep the channels of a pixel together (NHWC), as fast convolutions want them",
    "keep_memory": "memory that a step frees is kept for the next one, not given back to the system (glibc only)",
    "plain_activations": "SiLU writes a new tensor: in place, autograd has to copy its input first",
    "fused_optimizer": "torch's fused Adam: one pass over the weights, where fastai's takes a dozen calls a tensor",
    "amp": "mixed precision (float16) on CUDA; nothing elsewhere; not yet tried on a GPU",
    "inference_mode": "validation keeps no books for autograd, and takes batches of twice the size",
}
ALL = tuple(PARTS)


def choose_parts(parts: Iterable[str]) -> frozenset[str]:
    """Returns the names as a set.

    Raises:
        UserError: a name that is not in `PARTS`.
    """
    return frozenset(choose("part of a step", name, PARTS) for name in parts)


def plain_activations(model: nn.Module) -> None:
    """Makes every SiLU write a new tensor, which saves a copy: its gradient is computed from its input.

    The result is the same to the last bit. ReLU's gradient needs its output alone, so that in place costs no copy;
    Hardswish was not faster either way. Both stay as they are.
    """
    for module in model.modules():
        if isinstance(module, nn.SiLU):
            module.inplace = False


def mixed_precision(device: torch.device) -> list[Callback]:
    """Returns fastai's mixed precision for CUDA, nothing elsewhere.

    fastai's callback asks for CUDA by name, so MPS trains in float32; on a CPU bfloat16 was slower than float32.
    None of this has been run on a GPU yet.
    """
    return [MixedPrecision()] if device.type == "cuda" else []


class InferenceLearner(Learner):
    """A Learner that validates and predicts under `torch.inference_mode`, and may begin at a later epoch.

    Only model and loss run in it, not the loading of batches or the metrics: what those keep may come back in
    training, where a tensor made in inference mode is refused.

    Attributes:
        first_epoch: the epoch, counted from 0, that `fit` begins with. fastai's own way (`start_epoch`) still ends the
            epochs that it skips, which breaks what looks at their log.
    """

    first_epoch = 0

    def _do_fit(self):
        for epoch in range(self.first_epoch, self.n_epoch):
            self.epoch = epoch
            self._with_events(self._do_epoch, "epoch", CancelEpochException)

    def _do_one_batch(self):
        with nullcontext() if self.training else torch.inference_mode():
            super()._do_one_batch()


class FusedAdam(OptimWrapper):
    """torch's Adam in one kernel, with the numbers of fastai's `Adam(decouple_wd=False)`; fastai sees one of its own.

    Each of fastai's parameter groups is two of torch's: with weight decay, and without it (k + i for group i of k).
    A Learner says only after it has made the optimizer which parameters are not to decay (its `wd_bn_bias`), so they
    change sides when the groups are first used.

    Args:
        params: tensors, or a list of tensors for each parameter group.
        lr: learning rate; a slice spreads over the groups, as fastai does it.
        mom, sqr_mom, eps: Adam's beta 1, beta 2 and epsilon; defaults are fastai's.
        wd: L2 weight decay, added to the gradient.

    Source: Kingma and Ba 2014, arXiv 1412.6980.
    """

    def __init__(self, params, lr: float | slice, mom: float = 0.9, sqr_mom: float = 0.99, eps: float = 1e-5,
                 wd: float = 0.01):
        groups = list(params)
        if isinstance(groups[0], torch.Tensor):
            groups = [groups]
        decay = [{"params": list(group), "weight_decay": wd} for group in groups]
        no_decay = [{"params": [], "weight_decay": 0.0} for _ in groups]
        # torch has the kernel for all devices of busfast: CPU, CUDA and MPS.
        super().__init__(opt=torch.optim.Adam(decay + no_decay, lr=0.0, betas=(mom, sqr_mom), eps=eps, fused=True))
        self.set_hyper("lr", lr)

    def _pairs(self) -> list[tuple[dict, dict]]:
        half = len(self.opt.param_groups) // 2
        return list(zip(self.opt.param_groups[:half], self.opt.param_groups[half:], strict=True))

    def _sort(self) -> None:
        """Augmentation what the Learner has marked since to the groups without weight decay."""
        for decay, no_decay in self._pairs():
            moved = [param for param in decay["params"] if not self.state.get(param, {}).get("do_wd", True)]
            if moved:
                kept = {id(param) for param in decay["params"]} - {id(param) for param in moved}
                decay["params"] = [param for param in decay["params"] if id(param) in kept]
                no_decay["params"] += moved

    @property
    def param_lists(self):
        return [decay["params"] + no_decay["params"] for decay, no_decay in self._pairs()]

    @property
    def hypers(self):
        return super().hypers[:len(self.opt.param_groups) // 2]

    def _set_hyper(self, k, v):
        values = [float(value) for value in v]
        super()._set_hyper(k, values + ([0.0] * len(values) if k == "wd" else values))

    def step(self):
        self._sort()
        self.opt.step()

    def state_dict(self):
        self._sort()
        return self.opt.state_dict()

    def load_state_dict(self, state):
        self._sort()
        self.opt.load_state_dict(state)


# A learner exported with its optimizer's class must load where busfast is not installed.
cloudpickle.register_pickle_by_value(sys.modules[__name__])
