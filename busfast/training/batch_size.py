"""Which batch size fits into memory: estimated before training, named where it did not."""

from dataclasses import dataclass, replace
from pathlib import Path

import timm
import torch

from busfast import processes
from busfast.pipelines.backends import choose_device
from busfast.pipelines.config import Config

WORKSPACE = 1.5  # what a step takes at its peak, in what it keeps for the backward pass; see `measure_room`
MARGIN = 0.1  # of the free memory, for what is not counted: batches being read, the loader
SAID = ("out of memory", "not enough memory", "can't allocate memory", "bad_alloc", "bad allocation")
PROBE = 2  # images of the batch that is measured


@dataclass(frozen=True)
class Room:
    """How much memory there is, and what training takes of it, in bytes.

    Attributes:
        image: what a step keeps for the backward pass of one image; of several processes, each keeps its share.
        model: weights, gradients and Adam's two moments.
        free: memory that is free on the device; None: not known.
    """

    image: int
    model: int
    free: int | None

    def needs(self, bs: int) -> int:
        """Returns the bytes that training takes with `bs` images a batch."""
        return self.model + int(WORKSPACE * bs * self.image)

    def fits(self, bs: int) -> bool:
        """Returns whether that leaves `MARGIN` of the free memory; True where it is not known."""
        return self.free is None or self.needs(bs) <= (1 - MARGIN) * self.free

    def largest(self, below: int) -> int:
        """Returns the largest power of two that fits and is smaller than `below`; 2, the least there is, if none."""
        bs = 2
        while 2 * bs < below and self.fits(2 * bs):
            bs *= 2
        return bs


def measure_room(config: Config) -> Room:
    """Measures one small forward pass on the CPU; the same sizes are kept on any device.

    What autograd saves is counted, each storage once; not what the backward pass needs for a moment, its workspace,
    nor what the allocator wastes: `WORKSPACE` stands for these. Training EfficientNet-B0 at 224 px on the CPU took, at
    its peak, 991, 2082 and 4009 MB for batches of 8, 16 and 32; `Room.needs` says 1123, 2183 and 4301 MB, 13%, 5% and
    7% more. On a GPU in mixed precision it takes less than is said; that has not been measured.

    Args:
        config: names model, side and device.
    """
    device = choose_device(config.device)
    with torch.random.fork_rng(devices=[]):
        model = timm.create_model(config.arch, num_classes=len(config.classes)).train()
        kept = _saved_bytes(model, config.size)
    weights = sum(param.numel() * param.element_size() for param in model.parameters())
    free = free_memory(device)
    if free is not None and device.type == "cpu":
        free //= processes.local_world_size()
    return Room(kept // PROBE // processes.world_size(), 4 * weights, free)


def _saved_bytes(model: torch.nn.Module, size: int) -> int:
    """Bytes that autograd keeps of a batch of `PROBE` images, the weights left out."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    seen: dict[int, torch.Tensor] = {}  # holds them, so that no address is used twice

    def remember(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            seen.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        model(torch.zeros(PROBE, 3, size, size)).sum()
    return sum(tensor.untyped_storage().nbytes() for tensor in seen.values())


def free_memory(device: torch.device) -> int | None:
    """Returns the bytes that are free on a device, those of a container's limit if it has one; None: not known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    known = [size for size in (_available(), _cgroup_rest()) if size is not None]
    return min(known) if known else None


def _available() -> int | None:
    """Memory that Linux can give without swapping."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None


def _cgroup_rest() -> int | None:
    """What is left of a container's limit (cgroup 2, then 1); pages of files that it holds can be given back."""
    for folder, most, used, cache in (("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
                                      ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
                                       "total_inactive_file")):
        try:
            limit, taken = (int((Path(folder) / name).read_text()) for name in (most, used))
            stat = dict(line.split() for line in (Path(folder) / "memory.stat").read_text().splitlines())
            return limit - taken + int(stat.get(cache, 0))
        except (OSError, ValueError):  # there is none, or it says "max"
            continue
    return None


def fit_batch_size(config: Config, auto: bool) -> tuple[Config, int]:
    """Looks before training whether a batch fits, for a system that runs out of memory may kill without an error.

    Args:
        config: with the batch size asked for.
        auto: take another one if it does not fit; else that is only said.

    Returns:
        The configuration, its batch size being the largest power of two that fits if `auto` and it did not; and a
        smaller batch size that should fit if it does not after all.
    """
    room = measure_room(config)
    fits, most = room.fits(config.bs), room.largest(config.bs)
    free = "" if room.free is None else f"; {room.free / 1e9:.1f} GB are free"
    need = f"bs={config.bs} takes about {room.needs(config.bs) / 1e9:.1f} GB{free}"
    if auto:
        bs = config.bs if fits else most
        print(f"bs: {bs} (auto: " + ("the pipeline's own" if fits else "the largest power of two that fits")
              + f"; {need})", flush=True)
        return replace(config, bs=bs), room.largest(bs)
    if not fits:
        print(f"WARNING: {need}. It may be killed without a word; --bs={most} should fit (--bs=auto)", flush=True)
    return config, most


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error says that there was not enough memory, on any device."""
    if error.__context__ is not None and is_out_of_memory(error.__context__):
        return True  # fastai fails itself at an error without words, such as Python's own MemoryError
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error).lower() for words in SAID))
