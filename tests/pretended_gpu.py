"""A CUDA device without a GPU, with real numbers: Python sees cuda:0, C++ sees the CPU.

    with pretended_gpu() as seen:
        assert main(["train", ...]) == 0
    assert not seen.doubles

Mixing devices raises as it would. Each point where the host waits for the device is counted with the places that asked
for it (`Seen.waits`), and float64 on the device is noted (`Seen.doubles`).

It does not see: streams (they are replaced by ones that do nothing), cuDNN, NCCL, memory, the order in which kernels
end, which operations autocast runs in half precision on CUDA (those of the CPU stand in), what DALI does on a GPU, and
fastai's own batch transforms. `clip_grad_norm_` looks like a wait. torch.inference_mode becomes torch.no_grad.
"""

import threading
import traceback
from collections import Counter, OrderedDict
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest import mock

import fastai.callback.fp16
import fastai.losses
import fastai.torch_core
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
GPU = torch.device("cuda", 0)
PLACES = ("/busfast/", "/fastai/", "/grad_scaler", "/timm/", "/torch/optim/")
# Not seen by the dispatcher: these methods ask the tensor for its device in C++.
COPIES = {torch.Tensor.cpu, torch.Tensor.to, torch.Tensor.cuda, torch.Tensor.tolist}
_seen: "Seen | None" = None
_pinned: dict[int, torch.Tensor] = {}  # data pointer -> tensor, whose memory thereby stays taken


class OnGpu(torch.Tensor):
    """A tensor that says cuda:0 and holds its values in `inner`, on the CPU."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor):
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            layout=inner.layout, device=inner.device)
        made.inner = inner
        return made

    device = property(lambda self: GPU)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    def __reduce_ex__(self, protocol):
        if isinstance(self, nn.Parameter):
            return torch._utils._rebuild_parameter, (self.detach().inner, self.requires_grad, OrderedDict())
        return self.detach().inner.__reduce_ex__(protocol)

    def __deepcopy__(self, memo):
        copied = OnGpu(self.detach().inner.clone())
        return nn.Parameter(copied, self.requires_grad) if isinstance(self, nn.Parameter) else copied

    def __repr__(self):
        return f"OnGpu({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (torch.Tensor.numpy, torch.Tensor.__array__):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")
        if func is torch.Tensor.as_subclass:
            return OnGpu(args[0].inner)
        if func in COPIES:
            return _copy(func, *args, **kwargs)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class ImageOnGpu(OnGpu):
    """In the place of fastai's TensorImage, which cannot wrap another subclass."""

    @staticmethod
    def __new__(cls, x: torch.Tensor):
        return OnGpu.__new__(cls, x.inner) if isinstance(x, OnGpu) else x


def _copy(func, tensor, *args, **kwargs):
    """`to` and its relatives."""
    device, dtype, layout = GPU, None, None
    if func in (torch.Tensor.cpu, torch.Tensor.tolist):
        device = torch.device("cpu")
    elif func is torch.Tensor.to and args and isinstance(args[0], torch.Tensor):
        device, dtype = args[0].device, args[0].dtype
    elif func is torch.Tensor.to:
        kwargs.pop("copy", None)
        device, dtype, _, layout = torch._C._nn._parse_to(*args, **kwargs)
        device = device or GPU
    if device.type == "cpu":
        _seen.wait("to the host")
        inner = tensor.detach().inner.clone().to(dtype or tensor.dtype)
        return inner.tolist() if func is torch.Tensor.tolist else inner
    if dtype is None and layout is None:
        return tensor
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.to(dtype=dtype or tensor.dtype, **({"memory_format": layout} if layout else {}))


def _run(func, args, kwargs):
    """Runs an operation on the values, after the checks that a GPU would make."""
    leaves = tree_leaves((args, kwargs))
    on = [leaf for leaf in leaves if isinstance(leaf, OnGpu)]
    off = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and not isinstance(leaf, OnGpu)]
    made_there = any(isinstance(leaf, torch.device) and leaf.type == "cuda" for leaf in leaves)
    if func is aten._to_copy.default and off and made_there:
        _seen.copied(off[0], kwargs.get("non_blocking", False))
    elif func is aten.copy_.default and on and off:
        _seen.copied(off[0], len(args) > 2 and args[2])
    elif on and any(tensor.dim() for tensor in off):
        if func not in (aten.index.Tensor, aten.index_put_.default) or not isinstance(args[0], OnGpu):
            raise RuntimeError(f"{func}: Expected all tensors to be on the same device, but found cuda:0 and cpu")
        _seen.wait("an index of the CPU")
    if on and (func in (aten._local_scalar_dense.default, aten.nonzero.default, aten.equal.default)
               or func is aten.index.Tensor and any(getattr(index, "dtype", None) is torch.bool for index in args[1])):
        _seen.wait(str(func))

    def down(leaf):
        if isinstance(leaf, OnGpu):
            return leaf.inner
        if isinstance(leaf, torch.Tensor) and type(leaf) not in (torch.Tensor, nn.Parameter):
            return leaf.as_subclass(torch.Tensor)
        return torch.device("cpu") if isinstance(leaf, torch.device) and leaf.type == "cuda" else leaf

    with torch._C.DisableTorchFunctionSubclass():
        args_down, kwargs_down = tree_map(down, (tuple(args), dict(kwargs)))
        kwargs_down.pop("pin_memory", None)
        result = func(*args_down, **kwargs_down)
    if not on and not made_there:
        return result
    if any(leaf.dtype is torch.float64 and leaf.dim() for leaf in (*on, *tree_leaves(result))
           if isinstance(leaf, torch.Tensor)):
        _seen.doubles.add(_place())
    written = {id(leaf.inner): leaf for leaf in on}
    return tree_map(lambda leaf: _up(leaf, written), result)


def _up(leaf, written: dict[int, OnGpu]):
    if not isinstance(leaf, torch.Tensor):
        return leaf
    return written[id(leaf)] if id(leaf) in written else OnGpu(leaf)


def _place() -> str:
    """The innermost places of the program that led here."""
    frames = [frame for frame in traceback.extract_stack() if any(part in frame.filename for part in PLACES)]
    return " < ".join(f"{'/'.join(frame.filename.split('/')[-2:])}:{frame.lineno}" for frame in reversed(frames[-3:]))


class Seen(TorchDispatchMode):
    """What the pretended device saw.

    Attributes:
        waits: (phase, why, place) -> how often the host waited for the device.
        doubles: places that use float64 on the device.
        phase: a name that a test gives to what runs now.
    """

    def __init__(self):
        super().__init__()
        self.waits: Counter = Counter()
        self.doubles: set[str] = set()
        self.phase = ""

    def wait(self, why: str) -> None:
        self.waits[self.phase, why, _place()] += 1

    def copied(self, source: torch.Tensor, non_blocking: Any) -> None:
        """A copy from the CPU: the host need not wait if the memory is pinned."""
        if source.dim() and not (non_blocking and source.data_ptr() in _pinned):
            self.wait("from pageable memory" if non_blocking else "to the device")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if any(isinstance(leaf, OnGpu) or (isinstance(leaf, torch.device) and leaf.type == "cuda")
               for leaf in tree_leaves((args, kwargs))):
            return _run(func, args, kwargs)
        return func(*args, **kwargs)


def _apply(module: nn.Module, function, recurse=True) -> nn.Module:
    """`nn.Module._apply`, which cannot replace a parameter's data by that of another class."""
    for part in module.modules():
        for name, param in part._parameters.items():
            if param is not None:
                old, new = param.detach(), function(param.detach())
                if type(new) is not type(old) or new.stride() != old.stride():  # else the optimizer's one stays
                    part._parameters[name] = nn.Parameter(new, param.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = function(buffer)
    return module


def _pin(tensor: torch.Tensor, *args) -> torch.Tensor:
    copied = tensor.clone()
    _pinned[copied.data_ptr()] = copied
    return copied


def _in_thread(call):
    """A dispatch mode belongs to one thread: others enter a mode of their own."""
    def inner(*args, **kwargs):
        if threading.current_thread() is threading.main_thread():
            return call(*args, **kwargs)
        mode = Seen()
        with mode:
            return call(*args, **kwargs)
    return inner


def _retain_type(new, old=None, *args, own=fastai.torch_core.retain_type, **kwargs):
    """fastai's, which would put what comes to the CPU back onto the device."""
    return new if isinstance(old, OnGpu) else own(new, old, *args, **kwargs)


class _Stream:
    def __init__(self, *args, **kwargs):
        pass

    def wait_stream(self, other):
        pass

    def synchronize(self):
        pass

    cuda_stream = 0


class _Plain:
    """In the place of fastai's TensorBase."""

    def __new__(cls, x, *args, **kwargs):
        return x


def _cuda(bf16: bool) -> dict[str, Any]:
    """What torch.cuda says and does."""
    return {
        "_lazy_init": lambda: None, "is_available": lambda: True, "current_device": lambda: 0,
        "device_count": lambda: 1, "get_device_capability": lambda *args: (9, 0), "get_arch_list": lambda: ["sm_90"],
        "get_device_name": lambda *args: "pretended GPU", "is_bf16_supported": lambda *args, **kwargs: bf16,
        "get_rng_state": lambda *args: torch.get_rng_state(), "set_rng_state": lambda *args: None,
        "get_rng_state_all": lambda: [torch.get_rng_state()], "set_rng_state_all": lambda states: None,
        "manual_seed_all": lambda seed: None, "synchronize": lambda *args: None, "empty_cache": lambda: None,
        "mem_get_info": lambda *args: (70 << 30, 80 << 30), "memory_reserved": lambda *args: 0,
        "memory_allocated": lambda *args: 0, "Stream": _Stream, "current_stream": lambda *args: _Stream(),
        "stream": lambda stream: nullcontext()}


@contextmanager
def pretended_gpu(bf16: bool = True):
    """Makes torch and busfast see one GPU; yields `Seen`. `bf16`: whether it computes in bfloat16."""
    from busfast.inference import engines
    from busfast.pipelines import batch_tfms, image_dl

    global _seen
    patch = mock.patch.object
    patches = [
        patch(nn.Module, "_apply", _apply),
        patch(torch, "inference_mode", torch.no_grad),
        patch(torch.optim.Optimizer, "_accelerator_graph_capture_health_check", lambda self: None),
        patch(torch.Tensor, "pin_memory", _pin),
        patch(torch.Tensor, "record_stream", lambda self, stream: None),
        patch(fastai.torch_core.TensorBase, "__torch_function__", torch._C._disabled_torch_function_impl),
        patch(fastai.losses, "TensorBase", _Plain),
        patch(fastai.callback.fp16, "autocast", lambda device, dtype: torch.autocast("cpu", dtype=dtype)),
        patch(fastai.callback.fp16, "GradScaler", lambda device, **kwargs: torch.amp.GradScaler("cpu", **kwargs)),
        patch(engines.TorchEngine, "infer", _in_thread(engines.TorchEngine.infer)),
        patch(engines.LearnerEngine, "infer", _in_thread(engines.LearnerEngine.infer)),
        patch(image_dl, "TensorImage", ImageOnGpu), patch(batch_tfms, "TensorImage", ImageOnGpu),
        patch(image_dl, "retain_type", lambda value, like: value),
        patch(fastai.torch_core, "retain_type", _retain_type),
        *(patch(torch.cuda, name, value) for name, value in _cuda(bf16).items())]
    with ExitStack() as stack:
        for one in patches:
            stack.enter_context(one)
        _seen = stack.enter_context(Seen())
        try:
            yield _seen
        finally:
            _pinned.clear()
