"""Folds batch normalization into the preceding convolutions: the same predictions in less time."""

import copy
from collections import Counter

import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

TOLERANCE = 1e-5  # of a probability
# Exactly these classes: a subclass may do more with its weights than multiply, such as weight standardization.
_CONVOLUTIONS, _NORMS = (nn.Conv2d, Conv2dSame), (nn.BatchNorm2d, BatchNormAct2d)


def fold_batchnorm(model: nn.Module, sides: tuple[int, int] = (64, 64)) -> nn.Module:
    """Returns a copy for inference whose convolutions include the batch normalization that follows them.

    Both are linear in inference, so one convolution with other weights computes the same. Their order is traced with
    one image; an activation that timm keeps within the normalization stays.

    The model must take (N, 3, *sides) and return logits.

    Returns:
        The copy, in eval mode; or the model itself, unchanged, if there is nothing to fold or the probabilities of the
        two differ by more than 1e-5.
    """
    if not any(type(module) in _NORMS for module in model.modules()):
        return model
    folded = copy.deepcopy(model).eval()
    weight = next(folded.parameters())
    x = torch.randn(4, 3, *sides, generator=torch.Generator().manual_seed(0)).to(weight.device, weight.dtype)
    with torch.no_grad():
        expected = folded(x)
        pairs = _find_pairs(folded, x[:1])
        for conv, norm in pairs:
            _replace(folded, conv, fuse_conv_bn_eval(folded.get_submodule(conv), folded.get_submodule(norm)))
            _replace(folded, norm, _activation(folded.get_submodule(norm)))
        return folded.eval() if pairs and _agree(folded(x), expected) else model


def _agree(logits: torch.Tensor, expected: torch.Tensor) -> bool:
    """Also compares the logits, for probabilities of 0 and 1 would hide differences; False for NaN."""
    error = (logits - expected).abs().max() / expected.abs().max().clamp(min=1)
    return bool((logits.softmax(dim=1) - expected.softmax(dim=1)).abs().max() <= TOLERANCE and error <= 10 * TOLERANCE)


def _find_pairs(model: nn.Module, x: torch.Tensor) -> list[tuple[str, str]]:
    """Returns (convolution, normalization) names where the latter alone uses the former's output, each called once."""
    calls = []  # (name, input, output) of every call; keeping the tensors keeps their id() unique

    def record(name):
        return lambda module, inputs, output: calls.append((name, inputs[0] if inputs else None, output))

    modules = {name: module for name, module in model.named_modules()
               if not list(module.children()) or isinstance(module, _NORMS)}
    hooks = [module.register_forward_hook(record(name)) for name, module in modules.items()]
    try:
        model(x)
    finally:
        for hook in hooks:
            hook.remove()
    call_counts = Counter(name for name, _, _ in calls)
    use_counts = Counter(id(value) for _, value, _ in calls)
    convolutions = {id(output): name for name, _, output in calls if type(modules[name]) in _CONVOLUTIONS}
    pairs = [(convolutions.get(id(value)), name) for name, value, _ in calls
             if type(modules[name]) in _NORMS and use_counts[id(value)] == 1 and modules[name].running_mean is not None]
    return [(conv, norm) for conv, norm in pairs if conv is not None and call_counts[conv] == call_counts[norm] == 1]


def _activation(norm: nn.Module) -> nn.Module:
    """What remains of a folded normalization: timm's has a dropout and an activation of its own."""
    return nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
