"""Batch normalization whose sums are exchanged is torch's own where there is nobody to exchange them with."""

import pytest
import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d
from torch import nn

from busfast.training.distributed.sync_batchnorm import has_batch_norm, sync_batch_norm


@pytest.fixture
def alone():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize(("make", "shape"), [
    (lambda: nn.BatchNorm2d(5), (8, 5, 6, 7)), (lambda: nn.BatchNorm1d(5, momentum=None), (8, 5)),
    (lambda: nn.BatchNorm2d(5, affine=False, track_running_stats=False), (2, 5, 3, 3)),
    (lambda: BatchNormAct2d(5, eps=1e-3, act_layer=nn.SiLU), (8, 5, 6, 7))])
def test_it_is_torchs_own_to_rounding_forward_backward_and_in_what_it_remembers(alone, make, shape):
    torch.manual_seed(1)
    x = 30 + torch.randn(shape)  # a mean that is far from 0 must cost no digits
    own, whole = make(), make()
    for norm in (own, whole):
        with torch.no_grad():
            for param in norm.parameters():
                param.copy_(torch.linspace(0.5, 2, 5))
    whole = sync_batch_norm(nn.Sequential(whole), torch.device("cpu"))[0]
    results = []
    for norm in (own, whole):
        for _ in range(2):
            images = x.clone().requires_grad_()
            made = norm(images)
            (made * torch.linspace(-1, 1, made.numel()).view(made.shape)).sum().backward()
        results.append([made.detach(), images.grad, *(param.grad for param in norm.parameters()),
                        *norm.state_dict().values(), norm.eval()(x)])
    assert own.state_dict().keys() == whole.state_dict().keys()
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-4)


def test_a_model_is_known_to_have_it_or_not():
    assert has_batch_norm(nn.Sequential(nn.Sequential(BatchNormAct2d(3)))) and not has_batch_norm(nn.LayerNorm(3))
