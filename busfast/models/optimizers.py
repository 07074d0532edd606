"""Optimizers by name, the values of the setting `opt`: torch's and timm's behind fastai's interface."""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import cloudpickle
import torch
from fastai.optimizer import SGD, OptimWrapper
from timm.optim import get_optimizer_class, get_optimizer_info


class TorchOptimizer(OptimWrapper):
    """An optimizer of torch behind fastai's interface, weight decay as fastai has it included.

    Each of fastai's k parameter groups is two of torch's: group i has weight decay, group k + i has none. A Learner
    marks the parameters without decay (its `wd_bn_bias`) only after it has made the optimizer, so they are moved
    when the groups are first used.

    Args:
        params: tensors, or a list of tensors for each parameter group.
        lr: learning rate; a slice is spread over the groups, as in fastai.
        opt: makes torch's optimizer of parameter groups and a learning rate.
        wd: weight decay.
    """

    def __init__(self, params, lr: float | slice, opt: Callable[..., torch.optim.Optimizer], wd: float = 0.01):
        groups = list(params)
        if isinstance(groups[0], torch.Tensor):
            groups = [groups]
        decay = [{"params": list(group), "weight_decay": wd} for group in groups]
        no_decay: list[dict[str, Any]] = [{"params": [], "weight_decay": 0.0} for _ in groups]
        super().__init__(opt=opt(decay + no_decay, lr=0.0))
        self.set_hyper("lr", lr)

    def _pairs(self) -> list[tuple[dict, dict]]:
        groups = self.opt.param_groups
        half = len(groups) // 2
        return list(zip(groups[:half], groups[half:], strict=True))

    def _move_undecayed(self) -> None:
        """Moves parameters that the Learner has marked since to the groups without weight decay."""
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
        """Numbers only: loggers such as TensorBoardCallback write each of them."""
        groups = super().hypers[:len(self.opt.param_groups) // 2]
        return [{name: value for name, value in group.items()
                 if isinstance(value, int | float) and not isinstance(value, bool)} for group in groups]

    def clear_state(self):
        """Forgets the moments, as `freeze` and `unfreeze` do."""
        self._move_undecayed()
        super().clear_state()

    def _set_hyper(self, k, v):
        if k == "mom" and k not in self.bwd_map:
            return  # a schedule of momentum, for an optimizer without
        values = [float(value) for value in v]
        super()._set_hyper(k, values + ([0.0] * len(values) if k == "wd" else values))

    def step(self):
        self._move_undecayed()
        self.opt.step()

    def state_dict(self):
        self._move_undecayed()
        return self.opt.state_dict()

    def load_state_dict(self, state):
        self._move_undecayed()
        self.opt.load_state_dict(state)


class FusedAdam(TorchOptimizer):
    """torch's fused Adam; computes the same as fastai's `Adam`.

    Args:
        params, lr, wd: see `TorchOptimizer`.
        mom, sqr_mom, eps: Adam's beta 1, beta 2 and epsilon; defaults are fastai's.
        decouple_wd: subtract it from the weights (AdamW); else it is L2, added to the gradient.

    Source: Kingma and Ba 2014, arXiv 1412.6980; Loshchilov and Hutter 2017, arXiv 1711.05101.
    """

    def __init__(self, params, lr: float | slice, mom: float = 0.9, sqr_mom: float = 0.99, eps: float = 1e-5,
                 wd: float = 0.01, decouple_wd: bool = False):
        # torch has the fused kernel for all of busfast's devices: CPU, CUDA and MPS.
        adam = torch.optim.AdamW if decouple_wd else torch.optim.Adam
        super().__init__(params, lr, partial(adam, betas=(mom, sqr_mom), eps=eps, fused=True), wd)


OPTIMIZERS: dict[str, Callable] = {"adam": FusedAdam, "adamw": partial(FusedAdam, decouple_wd=True),
                                   "sgd": partial(SGD, mom=0.9)}


def find_optimizer(name: str) -> Callable[..., OptimWrapper]:
    """Returns what makes an optimizer of parameters and a learning rate, as fastai's `opt_func`: a key of `OPTIMIZERS`,
    or timm's of that name, with its own defaults and, as timm makes it, a momentum of 0.9 where it has one."""
    if name in OPTIMIZERS:
        return OPTIMIZERS[name]
    momentum = {"momentum": 0.9} if get_optimizer_info(name).has_momentum else {}
    return partial(TorchOptimizer, opt=partial(get_optimizer_class(name), **momentum))


# A learner exported with its optimizer's class must load where busfast is not installed.
cloudpickle.register_pickle_by_value(sys.modules[__name__])
