"""Which batch size fits into memory, estimated before training."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from busfast import processes
from busfast.models.arch import make_timm
from busfast.pipelines.config import Config
from busfast.pipelines.devices import free_on_gpu
from busfast.pipelines.resident import SHARE

WORKSPACE = 1.5  # peak memory of a step, as a multiple of what it keeps for the backward pass; see `measure_memory`
MARGIN = 0.1  # share of the free memory left for the loader and the batches being read
MESSAGES = ("out of memory", "not enough memory", "can't allocate memory", "bad_alloc", "bad allocation",
            "cuda allocation failed", "cudaerrormemoryallocation", "nvjpeg_status_allocator_failure")  # DALI's
PROBE = 2  # images in the measured batch


@dataclass(frozen=True)
class Memory:
    """Free memory and what training needs of it, in bytes."""

    image: int  # kept for the backward pass, an image of the batch; with several ranks, each rank's share of that
    model: int  # weights, gradients and Adam's two moments
    free: int | None  # of the device; None: unknown

    def needed(self, bs: int) -> int:
        """Returns the bytes that training needs with `bs` images a batch."""
        return self.model + int(WORKSPACE * bs * self.image)

    def fits(self, bs: int) -> bool:
        """Returns whether that leaves `MARGIN` of the free memory; True where free memory is unknown."""
        return self.free is None or self.needed(bs) <= (1 - MARGIN) * self.free

    def largest(self, below: int) -> int:
        """Returns the largest power of two that fits and is smaller than `below`; at least 2."""
        bs = 2
        while 2 * bs < below and self.fits(2 * bs):
            bs *= 2
        return bs


def measure_memory(config: Config, device: torch.device) -> Memory:
    """Measures a forward pass of `PROBE` images on the CPU; other devices keep tensors of the same size.

    What autograd saves is counted, each storage once. `WORKSPACE` accounts for the temporary memory of the backward
    pass and of the allocator: training EfficientNet-B0 at 224 px on the CPU peaked at 991, 2082 and 4009 MB for batches
    of 8, 16 and 32; the estimate is 13%, 5% and 7% higher (1123, 2183 and 4301 MB). Mixed precision on a GPU needs
    less; that was not measured.
    """
    with torch.random.fork_rng(devices=[]):
        sides = config.size, config.width or config.size
        model = make_timm(config.arch, sides, num_classes=len(config.classes)).train()
        kept = _saved_bytes(model, sides)
    weights = sum(param.numel() * param.element_size() for param in model.parameters())
    free = free_memory(device)
    if free is not None and device.type == "cpu":
        free //= processes.local_world_size()
    if free is not None and device.type == "cuda" and config.cache != "off":
        free -= int(SHARE * free)  # for decoded pixels
    return Memory(kept // PROBE // processes.world_size(), 4 * weights, free)


def _saved_bytes(model: torch.nn.Module, sides: tuple[int, int]) -> int:
    """Bytes that autograd keeps of a batch of `PROBE` images, without the weights."""
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    seen: dict[int, torch.Tensor] = {}  # holds the tensors, so that no address is reused

    def remember(tensor):
        if tensor.untyped_storage().data_ptr() not in weights:
            seen.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        model(torch.zeros(PROBE, 3, *sides)).sum()
    return sum(tensor.untyped_storage().nbytes() for tensor in seen.values())


def free_memory(device: torch.device) -> int | None:
    """Returns the free bytes of a device, within the limit of a container; None: unknown."""
    if device.type == "cuda":
        return free_on_gpu(device)
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return min((size for size in (_available(), _cgroup_rest()) if size is not None), default=None)


def _available() -> int | None:
    """Memory that Linux can provide without swapping."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None


def _cgroup_rest() -> int | None:
    """What is left of a container's limit (cgroup 2, then 1), counting its file cache as free."""
    for folder, most, used, cache in (("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
                                      ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
                                       "total_inactive_file")):
        try:
            limit, taken = (int((Path(folder) / name).read_text()) for name in (most, used))
            stat = dict(line.split() for line in (Path(folder) / "memory.stat").read_text().splitlines())
            return limit - taken + int(stat.get(cache, 0))
        except (OSError, ValueError):  # no such cgroup, or no limit ("max")
            continue
    return None


def fit_batch_size(config: Config, auto: bool, device: torch.device) -> tuple[Config, int]:
    """Checks before training whether a batch fits: some systems kill a process without an error message.

    Args:
        config: with the requested batch size.
        auto: replace a batch size that does not fit; otherwise print a warning.
        device: where the model is trained.

    Returns:
        The configuration, with the largest power of two that fits if `auto` and the requested batch size does not; and
        a smaller batch size that should fit if the estimate was wrong.
    """
    memory = measure_memory(config, device)
    fits, largest = memory.fits(config.bs), memory.largest(config.bs)
    free = "" if memory.free is None else f"; {memory.free / 1e9:.1f} GB are free"
    need = f"bs={config.bs} needs about {memory.needed(config.bs) / 1e9:.1f} GB{free}"
    if auto:
        bs = config.bs if fits else largest
        print(f"bs: {bs} (auto: " + ("from the pipeline" if fits else "the largest power of two that fits")
              + f"; {need})")
        return replace(config, bs=bs), memory.largest(bs)
    if not fits:
        end = "Training will run out of its memory" if device.type == "cuda" else \
            "The system may kill the process without a message"
        way = f"--bs={largest} should fit (--bs=auto)" if memory.fits(largest) else \
            f"not even --bs={largest} fits: give a smaller --size or another --arch"
        print(f"WARNING: {need}. {end}; {way}")
    return config, largest


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error, or the one it was raised from, means too little memory, on any device."""
    if error.__context__ is not None and is_out_of_memory(error.__context__):
        return True  # fastai itself fails on an error without a message, such as Python's MemoryError
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error).lower() for text in MESSAGES))
