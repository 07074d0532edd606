"""The device is the best one there is; what cannot be used is refused with why, and the way out."""

import re
from pathlib import Path

import pytest
import torch

from busfast.errors import UserError
from busfast.pipelines import devices
from busfast.pipelines.devices import choose_device, memory_format, why_no_cuda


def test_an_unknown_device_names_the_choices():
    with pytest.raises(UserError, match="Unknown device 'gpu'.*auto, cuda, mps, cpu"):
        choose_device("gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_a_device_that_is_not_there_is_refused_with_the_way_out():
    with pytest.raises(UserError, match="cannot use CUDA here: .*. Use --device=.*cpu"):
        choose_device("cuda")
    with pytest.raises(UserError, match="cannot use MPS here: it finds none. Use --device=cpu"):
        choose_device("mps")


@pytest.mark.parametrize(("here", "reason"), [
    ({"version": None}, "built without CUDA; pytorch.org"),
    ({"hidden": "-1"}, "CUDA_VISIBLE_DEVICES hides every GPU"),
    ({"driver": "nowhere"}, "there is no NVIDIA driver"),
    ({"driver": __file__}, "driver does not go with its CUDA 13.0 .*update the driver"),
    ({"capability": (6, 1)}, "the Card has compute capability 6.1, .* kernels for sm_75, sm_86, compute_86 only"),
    ({"capability": (7, 0)}, "compute capability 7.0"),
    ({"capability": (7, 5)}, "^$"), ({"capability": (8, 9)}, "^$"), ({"capability": (12, 0)}, "^$")])
def test_why_a_gpu_cannot_be_used_is_said(monkeypatch, here, reason):
    monkeypatch.setattr(torch.version, "cuda", here.get("version", "13.0"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "capability" in here)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: here["capability"])
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_86", "compute_86"])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Card")
    monkeypatch.setattr(devices, "DRIVER", Path(here.get("driver", __file__)))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if "hidden" in here:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", here["hidden"])
    assert re.search(reason, why_no_cuda())


def test_batches_are_in_nhwc_but_for_mps():
    assert [memory_format(torch.device(name)) for name in ("cpu", "cuda", "mps")] == [
        torch.channels_last, torch.channels_last, torch.contiguous_format]
