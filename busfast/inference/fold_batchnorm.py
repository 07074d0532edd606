"""Folds batch normalisation into the convolutions before it: the same predictions in less time."""

import copy
from collections import Counter

import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

TOLERANCE = 1e-5  # of a probability
# These classes and no others: a subclass may do more with its weights than multiply (weight standardisation does).
_CONVOLUTIONS, _NORMS = (nn.Conv2d, Conv2dSame), (nn.BatchNorm2d, BatchNormAct2d)


def fold_batchnorm(model: nn.Module, size: int = 64) -> nn.Module:
    """Makes a copy for inference in which convolutions do the work of the batch normalisation that follows them.

    In inference both are linear, so that one convolution with other weights gives the result of the two. What follows
    what is seen by sending one image through the model; an activation that timm keeps within the normalisation stays.

    Args:
        model: takes (N, 3, size, size), gives logits (N, classes).
        size: side of the images to try it with, pixels; a model of one fixed size needs that one.

    Returns:
        The copy, in eval mode. The model itself, untouched, where there is nothing to fold, or where the probabilities
        of the two differ by more than 1e-5.
    """
    if not any(type(module) in _NORMS for module in model.modules()):
        return model
    folded = copy.deepcopy(model).eval()
    weight = next(folded.parameters())
    x = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(0)).to(weight.device, weight.dtype)
    with torch.no_grad():
        expected = folded(x)
        pairs = _pairs(folded, x[:1])
        for conv, norm in pairs:
            _replace(folded, conv, fuse_conv_bn_eval(folded.get_submodule(conv), folded.get_submodule(norm)))
            _replace(folded, norm, _rest(folded.get_submodule(norm)))
        return folded.eval() if pairs and _agree(folded(x), expected) else model


def _agree(logits: torch.Tensor, expected: torch.Tensor) -> bool:
    """Also compares the logits, to some digits: probabilities of 0 and 1 would hide much. Never true of NaN."""
    apart = (logits - expected).abs().max() / expected.abs().max().clamp(min=1)
    return bool((logits.softmax(dim=1) - expected.softmax(dim=1)).abs().max() <= TOLERANCE and apart <= 10 * TOLERANCE)


def _pairs(model: nn.Module, x: torch.Tensor) -> list[tuple[str, str]]:
    """Names of convolutions and of the normalisation that takes their output, each used once and by nothing else."""
    calls = []  # (name, input, output) of every call; kept, so that no tensor takes the identity of an earlier one

    def note(name):
        return lambda module, inputs, output: calls.append((name, inputs[0] if inputs else None, output))

    modules = {name: module for name, module in model.named_modules()
               if not list(module.children()) or isinstance(module, _NORMS)}
    hooks = [module.register_forward_hook(note(name)) for name, module in modules.items()]
    try:
        model(x)
    finally:
        for hook in hooks:
            hook.remove()
    times = Counter(name for name, _, _ in calls)
    takers = Counter(id(taken) for _, taken, _ in calls)
    made_by = {id(output): name for name, _, output in calls if type(modules[name]) in _CONVOLUTIONS}
    pairs = [(made_by.get(id(taken)), name) for name, taken, _ in calls
             if type(modules[name]) in _NORMS and takers[id(taken)] == 1 and modules[name].running_mean is not None]
    return [(conv, norm) for conv, norm in pairs if conv is not None and times[conv] == times[norm] == 1]


def _rest(norm: nn.Module) -> nn.Module:
    """What a normalisation still does after it was folded."""
    return nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
