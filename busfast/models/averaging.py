"""An exponential moving average of a model's weights, which is what is validated and saved."""

from typing import Any

import torch
from fastai.callback.core import Callback
from fastai.callback.training import TrainEvalCallback
from torch.optim.swa_utils import AveragedModel


class AveragedWeights(Callback):
    """Keeps an average of the weights, and of the statistics of batch normalization; from validation to the end of the
    epoch, and after the fit, the Learner has the averaged model.

    Args:
        decay: share of the average that a step keeps; in the first steps less, (1 + n) / (10 + n) after n of them, so
            that the random or pretrained start is soon forgotten.

    Attributes:
        average: the averaged model.
        trained: the model that is trained.

    Source:
        Polyak and Juditsky 1992; the first steps as in TensorFlow's ExponentialMovingAverage.
    """

    order = TrainEvalCallback.order - 1  # which sets the mode of the model that this one chooses

    def __init__(self, decay: float):
        self.decay = decay

    def before_fit(self):
        self.trained = self.learn.model
        self.average = AveragedModel(self.trained, multi_avg_fn=self._blend, use_buffers=True)

    def before_train(self):
        self.learn.model = self.trained

    def after_step(self):
        self.average.update_parameters(self.trained)

    def before_validate(self):
        self.learn.model = self.average.module

    def after_fit(self):
        self.trained.load_state_dict(self.average.module.state_dict())
        self.learn.model = self.trained

    def state(self) -> dict[str, Any]:
        """Returns what a training continues with: tensors."""
        return {"trained": self.trained.state_dict(), "steps": self.average.n_averaged}

    def load(self, state: dict[str, Any], average: dict[str, torch.Tensor]) -> None:
        """Restores what `state` returned, and the weights of the averaged model."""
        self.trained.load_state_dict(state["trained"])
        self.average.module.load_state_dict(average)
        self.average.n_averaged.copy_(state["steps"])

    @torch.no_grad()
    def _blend(self, average, current, steps) -> None:
        weight = 1 - min(self.decay, (1 + int(steps)) / (10 + int(steps)))
        for old, new in zip(average, current, strict=True):
            old.lerp_(new, weight) if old.is_floating_point() else old.copy_(new)  # a counter
