"""Half precision in training, on CUDA; validation and inference are in float32."""

import sys

import cloudpickle
import torch
from fastai.callback.core import CancelStepException
from fastai.callback.fp16 import AMPMode, MixedPrecision


class HalfPrecision(MixedPrecision):
    """fastai's mixed precision in training alone, without its second look at the scale in each step.

    bfloat16 where the GPU computes in it: it needs no scaling, and no first steps are skipped; else float16. Validation
    is in float32, as the exported model, so that an epoch's score is the score in use.
    """

    run_valid = False

    def __init__(self):
        super().__init__(AMPMode.BF16 if has_bfloat16() else AMPMode.FP16)

    def before_step(self):
        self.skipped = True
        self.scaler.step(self)
        if self.skipped:
            raise CancelStepException


def has_bfloat16() -> bool:
    """Returns whether the GPU computes in bfloat16, rather than emulating it."""
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


# A learner exported with this callback must load where busfast is not installed.
cloudpickle.register_pickle_by_value(sys.modules[__name__])
