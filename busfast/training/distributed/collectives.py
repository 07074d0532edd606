"""torch.distributed while a model trains: the process group, sums over all ranks, and the state of rank 0."""

import io
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
import torch.distributed as dist

from busfast import processes
from busfast.training.distributed.store import PATIENCE, ProcessLost, training_store
from busfast.training.guards import raise_on_signal


@contextmanager
def process_group(device: torch.device, signals: list[int]) -> Iterator[None]:
    """Opens the process group (NCCL on CUDA, gloo elsewhere); a single process needs none. Raises ProcessLost if
    another rank cannot be reached, unless `signals` holds one: the other ranks received it, too, and may have ended.
    """
    if processes.world_size() == 1:
        yield
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", store=training_store(), rank=processes.rank(),
                            world_size=processes.world_size(), timeout=PATIENCE)
    try:
        yield
    except RuntimeError as error:
        # gloo has no error class of its own
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise_on_signal(signals)
        with suppress(ValueError):  # not the main thread
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the launcher's, which would cut the message short
        raise ProcessLost("Another process of this training has ended or cannot be reached "
                          f"({str(error).strip().splitlines()[0][:200]}).") from error
    finally:
        dist.destroy_process_group()


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Sums a tensor over all ranks, in place; each rank gets the same bits."""
    dist.all_reduce(tensor)
    return tensor


def broadcast_state(state: Any, device: torch.device) -> Any:
    """Returns the state of rank 0, tensors and plain values, on the CPU; it is sent through the memory of `device`."""
    file = io.BytesIO()
    if processes.rank() == 0:
        torch.save(state, file)
    size = torch.tensor([file.tell()], device=device)
    dist.broadcast(size, 0)
    data = torch.empty(int(size), dtype=torch.uint8, device=device)
    if processes.rank() == 0:
        data.copy_(torch.frombuffer(file.getbuffer(), dtype=torch.uint8))
    dist.broadcast(data, 0)
    return torch.load(io.BytesIO(data.cpu().numpy().tobytes()), map_location="cpu", weights_only=True)
