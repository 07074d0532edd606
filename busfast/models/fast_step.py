"""The parts of a fast training step; each is on unless `make_learner(parts=...)` leaves it out."""

import sys
from collections.abc import Iterable

import cloudpickle
import torch
from fastai.callback.core import Callback, CancelEpochException
from fastai.callback.fp16 import MixedPrecision
from fastai.data.core import DataLoaders, TfmdDL
from fastai.data.transforms import Normalize
from fastai.learner import Learner
from fasttransform import Pipeline
from torch import nn

from busfast.errors import choose
from busfast.models.precision import HalfPrecision

# Only amp changes results by more than rounding.
PARTS = {
    "channels_last": "model and batches are stored as NHWC, the layout of fast convolutions",
    "keep_memory": "memory that a step frees is kept for the next one, not returned to the system (glibc only)",
    "plain_activations": "SiLU writes a new tensor: in place, autograd must copy its input first",
    "fused_optimizer": "torch's fused Adam: one pass over the weights instead of fastai's dozen calls per tensor",
    "amp": "mixed precision in training on CUDA: bfloat16, else float16; nothing elsewhere; not yet tried on a GPU",
    "rare_looks": "a GPU's losses are read every 50 batches, so that the host does not wait for it; nothing on a CPU",
}
ALL = tuple(PARTS)


def choose_parts(parts: Iterable[str]) -> frozenset[str]:
    """Returns the names as a set; raises UserError for one that is not in `PARTS`."""
    return frozenset(choose("part of a step", name, PARTS) for name in parts)


def plain_activations(model: nn.Module) -> None:
    """Makes every SiLU write a new tensor, which saves a copy: its gradient is computed from its input.

    The result is bit-identical. The gradient of ReLU needs only its output, so in place costs no copy there; Hardswish
    was not faster either way. Both are left as they are.
    """
    for module in model.modules():
        if isinstance(module, nn.SiLU):
            module.inplace = False


def mixed_precision(device: torch.device) -> list[Callback]:
    """Returns the callback of mixed precision for CUDA, nothing elsewhere; not yet run on a GPU.

    fastai's callback supports only CUDA, so MPS trains in float32; on a CPU bfloat16 was slower than float32.
    """
    return [HalfPrecision()] if device.type == "cuda" else []


class FastLearner(Learner):
    """A Learner whose DataLoaders are normalized for its weights, and that can start at a later epoch.

    Attributes:
        weights_used: the start weights: text, mean, std. Every DataLoaders that it is given is normalized with them.
        frozen: names of weights that stay frozen, whatever `freeze` and `unfreeze` do to the others.
        first_epoch: the epoch, counted from 0, that `fit` starts with. fastai's own `start_epoch` still calls the
            callbacks at the end of skipped epochs, which breaks those that read the log.
    """

    first_epoch = 0
    weights_used: dict | None = None
    frozen: tuple[str, ...] = ()

    @property
    def dls(self) -> DataLoaders:
        return self._dls

    @dls.setter
    def dls(self, dls: DataLoaders):
        self._dls = dls
        if self.weights_used:
            self.normalize_dls()

    def normalize_dls(self) -> None:
        """Normalizes with the statistics of the weights, in the place of any other."""
        mean, std = self.weights_used["mean"], self.weights_used["std"]
        for dl in self._dls.loaders:
            if hasattr(type(dl), "normalize"):  # busfast's own, accelerated ones included
                dl.normalize(mean, std)
            elif isinstance(dl, TfmdDL):
                others = [step for step in getattr(dl.after_batch, "fs", ()) if not isinstance(step, Normalize)]
                dl.after_batch = Pipeline([*others, Normalize.from_stats(mean, std, cuda=False)])
                dl.device = dl.device  # moves the new one there

    def add_cb(self, cb):
        """fastai's; of two callbacks for mixed precision, the later one counts."""
        if isinstance(cb, MixedPrecision) or cb is MixedPrecision:
            self.remove_cbs(MixedPrecision)
        return super().add_cb(cb)

    def freeze_to(self, n: int):
        """Freezes the parameter groups before the n-th; what `make_learner(freeze=...)` has frozen stays so."""
        super().freeze_to(n)
        for name in self.frozen:
            self.model.get_parameter(name).requires_grad_(False)

    def _do_fit(self):
        for epoch in range(self.first_epoch, self.n_epoch):
            self.epoch = epoch
            self._with_events(self._do_epoch, "epoch", CancelEpochException)


# An exported learner is a `FastLearner` and must load where busfast is not installed.
cloudpickle.register_pickle_by_value(sys.modules[__name__])
