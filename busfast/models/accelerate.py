"""fastai's DataLoaders or Learner -> the same object, fast."""

from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import TypeVar

from fastai.callback.fp16 import MixedPrecision
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.optimizer import Adam

from busfast.errors import UserError
from busfast.models.fast_step import plain_activations
from busfast.models.memory import keep_freed_memory
from busfast.models.optimizers import FusedAdam
from busfast.models.rare_looks import look_rarely
from busfast.pipelines.accelerate import accelerate_dls
from busfast.pipelines.devices import memory_format

Accelerated = TypeVar("Accelerated", DataLoaders, Learner)


def accelerate(fast: Accelerated, *, cache: str = "auto", threads: int = 0) -> Accelerated:
    """Makes fastai image DataLoaders, or a Learner and its DataLoaders, fast; the code around them stays as it is.

    A Learner's model is stored as NHWC, its SiLU writes new tensors, and fastai's Adam becomes torch's fused one, with
    the same numbers, if the optimizer has not been made yet. Mixed precision is left to you: `learn.to_fp16()`.

    Args:
        fast: DataLoaders or a Learner; it is changed.
        cache: "auto": keep decoded pixels in this user's cache folder; a folder to keep them in; or "off".
        threads: that read, decode and crop; 0: one per core.

    Returns:
        The same object. What cannot be made fast is left to fastai, and said in one line.

    Raises:
        UserError: it is neither DataLoaders nor a Learner.
    """
    if isinstance(fast, DataLoaders):
        keep_freed_memory()
        return accelerate_dls(fast, cache=cache, threads=threads)
    if not isinstance(fast, Learner):
        raise UserError(f"accelerate takes fastai DataLoaders or a Learner, not {type(fast).__name__}. A DataBlock: "
                        "accelerate(block.dataloaders(source)).")
    accelerate(fast.dls, cache=cache, threads=threads)
    if not any(isinstance(cb, MixedPrecision) for cb in fast.cbs):
        fast.model.to(memory_format=memory_format(fast.dls.device))
    plain_activations(fast.model)
    look_rarely(fast)
    if fast.opt is None:
        fast.opt_func = fused(fast.opt_func)
    return fast


def fused(opt_func: Callable) -> Callable:
    """Returns the fused optimizer for fastai's Adam, by itself or in a `partial`; any other as it is."""
    function, given = opt_func, {}
    if isinstance(opt_func, partial) and not opt_func.args:
        function, given = opt_func.func, opt_func.keywords
    if function is not Adam or set(given) - set(signature(Adam).parameters):
        return opt_func
    return partial(FusedAdam, **({"decouple_wd": True} | given))
