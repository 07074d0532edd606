"""The launcher's key-value store: requests from rank 0 to the other ranks, barriers, and the news of a failure.

A rank may wait here for hours and still reacts to a signal. Tensors are exchanged in `collectives`.
"""

import importlib.util
import json
import time
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from busfast import processes
from busfast.errors import UserError
from busfast.pipelines.config import Config
from busfast.pipelines.settings import format_value

# Settings that are as they are by default.
ONE_PROCESS = ("label_delim", "loss", "mixup", "cutmix", "accumulate", "ema", "tta", "metrics", "unfreeze_after")
PATIENCE = timedelta(minutes=10)  # that a rank waits for another one in the middle of training
POLL = 0.5  # seconds, at most, between looks into the store

_state: dict[str, Any] = {"requests": 0, "barriers": 0}


class ProcessLost(UserError):
    """Another process of this training has failed or ended."""


def check_processes(config: Config, device: torch.device) -> None:
    """Refuses what several processes cannot train, before time is spent.

    Raises:
        UserError: Accelerate is not installed; the ranks cannot share the device; a setting needs the whole batch in
            one process; a batch has fewer images than there are ranks.
    """
    if processes.world_size() == 1:
        return
    if importlib.util.find_spec("accelerate") is None:
        raise UserError("Training in several processes needs Accelerate: pip install accelerate")
    if device.type == "mps":
        raise UserError(f"device={config.device}: MPS trains in one process. Start it without torchrun, or use "
                        "--device=cpu.")
    if device.type == "cuda" and torch.cuda.device_count() < processes.local_world_size():
        raise UserError(f"{processes.local_world_size()} processes on a machine with {torch.cuda.device_count()} GPUs: "
                        "each process needs its own. Start fewer processes.")
    for name in ONE_PROCESS:
        value, default = getattr(config, name), getattr(Config, name)
        if value not in (default, "weighted"):  # auto, with several processes
            raise UserError(f"{name}={format_value(value)} needs the whole batch in one process, or is not tried with "
                            f"several. Train in one process, or with --{name}={format_value(default)}.")
    check_batch_size(config.bs)


def check_batch_size(bs: int) -> None:
    """Refuses a batch with fewer images than there are ranks."""
    if bs < processes.world_size():
        raise UserError(f"bs={bs} leaves some of the {processes.world_size()} processes without an image. "
                        f"Give --bs={processes.world_size()} or more, or start fewer processes.")


def open_store() -> None:
    """Connects this rank to the store; called once."""
    store = next(rendezvous("env://", processes.rank(), processes.world_size(), timeout=PATIENCE))[0]
    _state["store"] = dist.PrefixStore("busfast", store)


def send_request(request: dict[str, Any] | None) -> None:
    """Sends the other ranks what to train next, in JSON values; None: nothing is left to do."""
    _state["store"].set(f"request {_state['requests']}", json.dumps(request))
    _state["requests"] += 1


def start_workers(request: dict[str, Any]) -> None:
    """Sends a request (JSON values: run, config, root of the images, weights) to the other ranks, if there are any, and
    waits until they are ready to train; ProcessLost if one of them failed.
    """
    if processes.world_size() > 1:
        send_request(request)
        barrier()


def next_request() -> dict[str, Any] | None:
    """Waits for the next request of rank 0; raises ProcessLost if that failed."""
    request = json.loads(_wait(f"request {_state['requests']}"))
    _state["requests"] += 1
    return request


def announce_failure() -> None:
    """Lets the other ranks know, wherever they wait in the store, that this one has failed."""
    with suppress(RuntimeError):  # the store went with its launcher
        _state["store"].set("failed", str(processes.rank()))


def barrier() -> None:
    """Waits until every rank is here; raises ProcessLost if one of them failed."""
    key = f"barrier {_state['barriers']}"
    _state["barriers"] += 1
    if _state["store"].add(key, 1) == processes.world_size():
        _state["store"].set(f"{key} is full", "")
    _wait(f"{key} is full")


def _wait(key: str) -> str:
    store, pause = _state["store"], POLL / 64
    while not store.check([key]):
        if store.check(["failed"]):
            raise ProcessLost(f"Process {store.get('failed').decode()} of {processes.world_size()} failed; see its own "
                              "message.")
        time.sleep(pause)
        pause = min(POLL, 2 * pause)
    return store.get(key).decode()


def training_store() -> dist.Store:
    """Returns a part of the store for the collectives of one training."""
    return dist.PrefixStore(f"training {_state['requests']}", _state["store"])
