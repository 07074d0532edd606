"""What a configuration changes in how a model is trained: callbacks that every rank has."""

from fastai.callback.core import Callback, CancelBatchException
from fastai.callback.mixup import CutMix, MixUp
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.learner import Learner
from fastai.torch_core import find_bs

from busfast.models.averaging import AveragedWeights
from busfast.models.freeze import FreezeStages, UnfreezeAfter, should_freeze
from busfast.models.losses import mean_logits
from busfast.models.schedules import make_schedule
from busfast.pipelines.config import Config


class Accumulate(GradientAccumulation):
    """fastai's gradient accumulation, which also steps after the last batch of an epoch: the next one starts anew, in
    a resumed run, too."""

    def before_step(self):
        self.learn.loss_grad *= self.n_acc / find_bs(self.learn.yb)  # log the batch's own loss
        self.count += find_bs(self.learn.yb)
        if self.count < self.n_acc and self.iter + 1 < self.n_iter:
            raise CancelBatchException
        self.count = 0


class MirroredValidation(Callback):
    """Validates the mean of the probabilities of an image and of its mirror image, as the exported model will."""

    run_train = False

    def __init__(self, multi_label: bool):
        self.multi_label = multi_label

    def after_pred(self):
        self.learn.pred = mean_logits([self.pred, self.learn.model(self.x.flip(-1))], self.multi_label)


def recipe_callbacks(config: Config, learn: Learner) -> list[Callback]:
    """Returns the callbacks of a configuration."""
    callbacks = [make_schedule(config.schedule, config.lr, config.lr_min, warmup=config.warmup / config.epochs,
                               lr_mult=config.lr_mult, groups=len(learn.splitter(learn.model)))]
    if config.mixup or config.cutmix:
        callbacks.append(MixUp(config.mixup) if config.mixup else CutMix(config.cutmix))
    if config.freeze_after and should_freeze(config.freeze, learn.weights_used["text"]):
        callbacks.append(FreezeStages(config.freeze, config.freeze_after, config.arch))
    if config.unfreeze_after and should_freeze(config.unfreeze_after, learn.weights_used["text"], "unfreeze_after"):
        callbacks.append(UnfreezeAfter(config.unfreeze_after))
    if config.accumulate > 1:
        callbacks.append(Accumulate(config.accumulate * config.bs))
    if config.clip:
        callbacks.append(GradientClip(config.clip))
    if config.ema:
        callbacks.append(AveragedWeights(config.ema))
    if config.tta == "flip":
        callbacks.append(MirroredValidation(learn.dls.multi_label))
    return callbacks
