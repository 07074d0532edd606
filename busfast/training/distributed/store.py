"""The processes of one training: how they find each other, wait for each other and exchange tensors.

Words go through the store that the starter keeps, where a process may wait for hours and still heeds a signal; tensors
go through torch.distributed, only while a model is trained, and fail where a process is gone.
"""

import importlib.util
import io
import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from busfast import processes
from busfast.errors import UserError
from busfast.pipelines.backends import choose_device
from busfast.pipelines.config import Config
from busfast.training.guards import heed

PATIENCE = timedelta(minutes=10)  # that a process waits for another one in the middle of training
POLL = 0.5  # seconds, at most, between looks into the store

_state: dict[str, Any] = {"jobs": 0, "meetings": 0}


class ProcessLost(UserError):
    """Another process of this training is gone."""


def check_processes(config: Config) -> None:
    """Refuses what several processes cannot do, before time is spent; one process may do anything.

    Raises:
        UserError: Accelerate is not installed; the device cannot be shared; a batch has fewer images than there are
            processes.
    """
    if processes.world_size() == 1:
        return
    if importlib.util.find_spec("accelerate") is None:
        raise UserError("Training in several processes needs Accelerate: pip install accelerate")
    kind = choose_device(config.device).type
    if kind == "mps":
        raise UserError(f"device={config.device}: MPS trains in one process. Start it without torchrun, or use "
                        "--device=cpu.")
    if kind == "cuda" and torch.cuda.device_count() < processes.local_world_size():
        raise UserError(f"{processes.local_world_size()} processes share this machine and it has "
                        f"{torch.cuda.device_count()} GPUs: each process needs its own. Start fewer of them.")
    check_share(config.bs)


def check_share(bs: int) -> None:
    """Refuses a batch with fewer images than there are processes."""
    if bs < processes.world_size():
        raise UserError(f"bs={bs} is shared by {processes.world_size()} processes, so that some would have no image. "
                        f"Give --bs={processes.world_size()} or more, or start fewer processes.")


def open_store() -> None:
    """Meets the other processes; is called once, by each."""
    host = next(rendezvous("env://", processes.rank(), processes.world_size(), timeout=PATIENCE))[0]
    _state["store"] = dist.PrefixStore("busfast", host)


def send_job(job: dict[str, Any] | None) -> None:
    """Tells the others what to do next.

    Args:
        job: plain values; None: nothing, the work is done.
    """
    _state["store"].set(f"job {_state['jobs']}", json.dumps(job))
    _state["jobs"] += 1


def call_others(job: dict[str, Any]) -> None:
    """Has the other processes train with this one, and waits until they are ready; one process alone has none.

    Args:
        job: plain values: run (its name), config, root (of the images), weights (what the model starts from).

    Raises:
        ProcessLost: one of them cannot.
    """
    if processes.world_size() > 1:
        send_job(job)
        barrier()


def next_job() -> dict[str, Any] | None:
    """Waits until the first process says what to do next.

    Raises:
        ProcessLost: it failed.
    """
    found = json.loads(_wait(f"job {_state['jobs']}"))
    _state["jobs"] += 1
    return found


def announce_failure() -> None:
    """Tells the others, wherever they wait in the store, that this process has failed."""
    with suppress(RuntimeError):  # the store went with its starter
        _state["store"].set("failed", str(processes.rank()))


def barrier() -> None:
    """Waits until every process has come here.

    Raises:
        ProcessLost: one of them failed.
    """
    key = f"meeting {_state['meetings']}"
    _state["meetings"] += 1
    if _state["store"].add(key, 1) == processes.world_size():
        _state["store"].set(f"{key} is full", "")
    _wait(f"{key} is full")


def _wait(key: str) -> str:
    store, pause = _state["store"], POLL / 64
    while not store.check([key]):
        if store.check(["failed"]):
            raise ProcessLost(f"Process {store.get('failed').decode()} of {processes.world_size()} failed; "
                              "it says why.")
        time.sleep(pause)
        pause = min(POLL, 2 * pause)
    return store.get(key).decode()


@contextmanager
def process_group(device: torch.device, signals: list[int]) -> Iterator[None]:
    """Lets the processes exchange tensors (NCCL on CUDA, gloo elsewhere); one process alone has no need to.

    Args:
        device: where this process trains.
        signals: those received so far, as `record_signals` gives them; the other processes received them, too, and may
            have ended first.

    Raises:
        ProcessLost: instead of the error that torch.distributed has where another process is gone.
    """
    if processes.world_size() == 1:
        yield
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    store = dist.PrefixStore(f"training {_state['jobs']}", _state["store"])
    dist.init_process_group(backend, store=store, rank=processes.rank(), world_size=processes.world_size(),
                            timeout=PATIENCE)
    try:
        yield
    except RuntimeError as error:
        if is_lost(error):
            heed(signals)
            with suppress(ValueError):  # not the main thread
                signal.signal(signal.SIGTERM, signal.SIG_IGN)  # on its way from the starter; what follows is to be said
            raise ProcessLost("Another process of this training has ended or cannot be reached "
                              f"({str(error).strip().splitlines()[0][:200]}).") from error
        raise
    finally:
        dist.destroy_process_group()


def is_lost(error: BaseException) -> bool:
    """Returns whether torch.distributed says that another process is gone; gloo says it without a class of its own."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Returns the sum of what all processes hold, the same to the last bit in each; `tensor` is overwritten."""
    dist.all_reduce(tensor)
    return tensor


def broadcast_state(state: Any, device: torch.device) -> Any:
    """Returns what the first process holds: tensors and plain values, on the CPU, never a pickle.

    Args:
        state: what it holds; nobody looks at that of the others.
        device: of the training, through whose memory it is sent.
    """
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
