"""DataLoaders -> fastai Learner around a timm model, with the experiment's loss, optimizer and schedule."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from fastai.learner import Learner
from fastai.optimizer import Adam
from fastcore.foundation import L

from busfast.errors import UserError
from busfast.models.arch import check_arch, check_size
from busfast.models.fast_step import ALL, FastLearner, choose_parts, mixed_precision, plain_activations
from busfast.models.freeze import freeze_stages, should_freeze, split_stages
from busfast.models.losses import class_weights, make_loss
from busfast.models.memory import keep_freed_memory
from busfast.models.metrics import make_metrics
from busfast.models.optimizers import FusedAdam
from busfast.models.rare_looks import look_rarely
from busfast.models.weights import StartWeights, make_model
from busfast.pipelines.dataloaders import TableDataLoaders
from busfast.pipelines.devices import memory_format


def make_learner(dls: TableDataLoaders, arch: str = "efficientnet_b0", *, weights: str | StartWeights = "auto",
                 dropout: float = 0.2, lr: float = 1e-3, wd: float = 1e-4, freeze: int = 0,
                 loss: str = "auto", label_smoothing: float = 0.0, metrics: Any = None, loss_func: Any = None,
                 opt_func: Any = None, splitter: Any = None, cbs: Any = None, parts: Sequence[str] = ALL,
                 path: str | Path | None = None, model_dir: str | Path = "models") -> Learner:
    """Makes a Learner: a timm model, its loss, Adam. Sets the normalization of `dls` to the weights'.
    `busfast.learner` is another name of this function.

    Args:
        dls: from `make_dls`.
        arch: any timm model name.
        weights: see `busfast.models.weights.make_model`.
        dropout: before the classifier, 0 to 1.
        lr: learning rate.
        wd: (L2) weight decay.
        freeze: number of first stages to freeze, see `freeze_stages`; ignored if the weights are random.
        loss, label_smoothing: see `busfast.models.losses.make_loss`; of the default loss_func.
        metrics, loss_func, opt_func, splitter, cbs: those of fastai's Learner; default: the metrics of the log,
            that of `loss`, Adam with L2 weight decay, early stages, late stages and classifier, none.
        parts: of the fast step to use, names of `busfast.models.fast_step.PARTS`.
        path: fastai's folder for its files.
        model_dir: the folder in it for weights.

    Returns:
        A fastai Learner; `learn.weights_used` describes the start weights (text, mean, std).

    Raises:
        UserError: an unknown part; whatever `check_size`, `make_model`, `make_loss` and `freeze_stages` refuse.
    """
    if not isinstance(dls, TableDataLoaders):
        raise UserError("busfast.learner takes the DataLoaders of busfast.dataloaders or make_dls. For fastai's own: "
                        "busfast.accelerate(vision_learner(dls, ...)).")
    if not isinstance(arch, str):
        raise UserError(f"arch is a timm name, such as '{getattr(arch, '__name__', 'resnet18')}', not a "
                        f"{type(arch).__name__}.")
    enabled = choose_parts(parts)
    if "keep_memory" in enabled:
        keep_freed_memory()
    classes, sides = tuple(dls.vocab), dls.valid.image.sides
    check_size(check_arch(arch), sides)
    model, start = make_model(arch, weights, len(classes), dropout, sides)
    frozen = freeze_stages(model, freeze, arch) if should_freeze(freeze, start.text) else ()
    layout = memory_format(dls.device) if "channels_last" in enabled else torch.contiguous_format
    model = model.to(dls.device, memory_format=layout)
    if "plain_activations" in enabled:
        plain_activations(model)
    if loss_func is not None and loss != "auto":
        raise UserError(f"loss='{loss}' and loss_func both name a loss. Leave one of them out.")
    if loss_func is None:
        weight = None if dls.multi_label else class_weights(list(dls.train_ds.items["label"]), classes).to(dls.device)
        loss_func = make_loss(loss, weight, label_smoothing)
    adam = FusedAdam if "fused_optimizer" in enabled else partial(Adam, decouple_wd=False)
    learn = FastLearner(dls, model, loss_func=loss_func, opt_func=opt_func or adam, splitter=splitter or split_stages,
                        lr=lr, wd=wd, cbs=[*(mixed_precision(dls.device) if "amp" in enabled else ()), *L(cbs)],
                        metrics=make_metrics(classes) if metrics is None else metrics, path=path, model_dir=model_dir)
    if "rare_looks" in enabled:
        look_rarely(learn)
    learn.frozen = frozen
    learn.weights_used = asdict(start)  # builtin types: an exported learner must load without busfast
    learn.normalize_dls()
    return learn


learner = make_learner  # as `busfast.learner`
