"""DataLoaders -> fastai Learner around a timm model, with the experiment's loss, optimizer and schedule."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from fastai.callback.schedule import ParamScheduler, SchedCos
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import Adam
from fastai.torch_core import params

from busfast.models.fast_step import ALL, FusedAdam, InferenceLearner, choose_parts, mixed_precision, plain_activations
from busfast.models.freeze import can_freeze, freeze_stages
from busfast.models.memory import keep_freed_memory
from busfast.models.metrics import make_metrics
from busfast.models.weights import Weights, make_model
from busfast.pipelines.dataloaders import TableDataLoaders


def class_weights(labels: Sequence[str], classes: Sequence[str]) -> torch.Tensor:
    """Returns n / (k * count) of each class: the weights that make every class count alike in the loss.

    Args:
        labels: one an image of the training part.
        classes: the k labels, in the model's order; each occurs.

    Returns:
        float32, (k,).
    """
    counts = [sum(label == name for label in labels) for name in classes]
    return torch.tensor([len(labels) / (len(classes) * count) for count in counts])


def make_learner(dls: TableDataLoaders, arch: str = "efficientnet_b0", *, weights: str | Weights = "auto",
                 dropout: float = 0.2, lr: float = 1e-3, wd: float = 1e-4, freeze: int = 0, parts: Sequence[str] = ALL,
                 path: str | Path | None = None, model_dir: str | Path = "models") -> Learner:
    """Makes a Learner: a timm model, weighted cross-entropy, Adam; `dls` takes the weights' mean and std.

    Args:
        dls: as `make_dls` returns them.
        arch: any timm model name.
        weights: see `busfast.models.weights.make_model`.
        dropout: before the classifier, 0 to 1.
        lr: learning rate.
        wd: (L2) weight decay.
        freeze: number of the model's first stages that are not trained; see `freeze_stages`. None are of a model that
            starts from random weights.
        parts: what makes the step fast, names of `busfast.models.fast_step.PARTS`.
        path: where fastai puts what it saves.
        model_dir: the folder in it for weights.

    Returns:
        A fastai Learner; `learn.weights_used` says what the model started from (text, mean, std).

    Raises:
        UserError: an unknown part; what `make_model` and `freeze_stages` refuse.
    """
    on = choose_parts(parts)
    if "keep_memory" in on:
        keep_freed_memory()
    classes = tuple(dls.vocab)
    model, start = make_model(arch, weights, len(classes), dropout)
    if can_freeze(freeze, start.text):
        freeze_stages(model, freeze, arch)
    layout = torch.channels_last if "channels_last" in on else torch.contiguous_format
    model = model.to(dls.device, memory_format=layout)
    if "plain_activations" in on:
        plain_activations(model)
    if "inference_mode" in on:
        dls.valid.bs = 2 * dls.train.bs  # nothing is kept for a backward pass: twice as many fit
    dls.normalize(start.mean, start.std)
    weight = class_weights(list(dls.train_ds.items["label"]), classes).to(dls.device)
    kind = InferenceLearner if "inference_mode" in on else Learner
    adam = FusedAdam if "fused_optimizer" in on else partial(Adam, decouple_wd=False)
    # splitter: the optimizer knows frozen weights, too, so that they may be unfrozen; without a gradient they stay.
    learn = kind(dls, model, loss_func=CrossEntropyLossFlat(weight=weight), opt_func=adam, splitter=params, lr=lr,
                 wd=wd, cbs=mixed_precision(dls.device) if "amp" in on else None, metrics=make_metrics(classes),
                 path=path, model_dir=model_dir)
    learn.weights_used = asdict(start)  # plain values: an exported learner must load without busfast
    return learn


def cosine(lr: float, lr_min: float) -> ParamScheduler:
    """Returns a callback that takes the learning rate from `lr` to `lr_min` along a cosine, batch by batch,

    over the epochs that `learn.fit(epochs, cbs=...)` is asked for.
    """
    return ParamScheduler({"lr": SchedCos(lr, lr_min)})
