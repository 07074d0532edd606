"""Batch normalization over the images of all ranks, as if one process had the whole batch."""

from functools import partial

import torch
import torch.distributed as dist
from fastai.learner import Learner
from timm.layers.norm_act import BatchNormAct2d, convert_sync_batchnorm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from busfast import processes
from busfast.errors import UserError


def sync_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """Makes a model's batch normalization use the whole batch, in place or, on CUDA, in the model that is returned.

    On CUDA it becomes torch's SyncBatchNorm (converted by timm, whose layers contain an activation), which refuses
    other devices; there the sums are exchanged here. Names and values of the model's state stay as they are.
    """
    if device.type == "cuda":
        return convert_sync_batchnorm(model)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.forward = partial(_forward, module)
    return model


def has_batch_norm(model: nn.Module) -> bool:
    """Returns whether a model has any batch normalization."""
    return any(isinstance(module, _BatchNorm) for module in model.modules())


def check_last_batches(learn: Learner) -> None:
    """Raises UserError for a model that fails on an empty batch, where the last one has fewer images than there are
    ranks. Without batch normalization, such a rank trains on a blank image (see `ExactDistributedTrainer`).
    """
    rest = [dl.n % dl.bs for dl in learn.dls.loaders]
    if not any(0 < count < processes.world_size() for count in rest) or not has_batch_norm(learn.model):
        return
    try:
        with torch.no_grad():
            learn.model.eval()(torch.empty((0, 3, *learn.dls.image.sides), device=learn.dls.device))
    except Exception as error:  # whatever a model's own code raises
        raise UserError(f"The last batches have {rest[0]} (training) and {rest[1]} (validation) images for "
                        f"{processes.world_size()} processes, and this model fails on a process without an image. "
                        f"Give another --bs than {learn.dls.train.bs}, or start fewer processes.") from error


class _Sum(torch.autograd.Function):
    """The sum over all ranks; its gradient is summed, too."""

    @staticmethod
    def forward(ctx, tensor):
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, grad):
        total = grad.clone()
        dist.all_reduce(total)
        return total


def _forward(norm: _BatchNorm, x: torch.Tensor) -> torch.Tensor:
    if not norm.training:
        return type(norm).forward(norm, x)
    x = _normalize(norm, x)
    return norm.act(norm.drop(x)) if isinstance(norm, BatchNormAct2d) else x


def _normalize(norm: _BatchNorm, x: torch.Tensor) -> torch.Tensor:
    """Normalizes this rank's images of a batch in training, (N, C, ...); N may be 0."""
    channels = [1, -1] + [1] * (x.dim() - 2)
    axes = [axis for axis in range(x.dim()) if axis != 1]
    # In double precision, so that a mean far from 0 costs no digits of the variance.
    sums = torch.stack([x.sum(axes, dtype=torch.double), x.square().sum(axes, dtype=torch.double)])
    total = _Sum.apply(torch.cat([sums.flatten(), sums.new_tensor([x.numel() // x.shape[1]])]))
    count = total[-1]
    mean, squares = (total[:-1] / count).view(2, -1)
    var = squares - mean.square()
    if norm.track_running_stats:
        with torch.no_grad():
            norm.num_batches_tracked.add_(1)
            rate = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
            norm.running_mean.lerp_(mean.to(norm.running_mean), rate)
            norm.running_var.lerp_((var * count / (count - 1)).to(norm.running_var), rate)
    scale = (var + norm.eps).rsqrt()
    centered = x - mean.to(x).view(channels)
    if not norm.affine:
        return centered * scale.to(x).view(channels)
    return torch.addcmul(norm.bias.to(x).view(channels), centered, (scale * norm.weight).to(x).view(channels))
