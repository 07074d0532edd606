"""bench step: training steps on one batch in memory, so that loading costs nothing; each part by itself."""

from typing import Any

import torch

from busfast.bench.arena import Contender, Ready, compete, pick
from busfast.bench.learners import BareLoop, ResidentBatch, busfast_learner, epoch_seconds, stock_learner
from busfast.bench.report import MEDIAN, MEMORY, Report, Target, reasons, tabulate
from busfast.models.fast_step import ALL

STEPS = 3  # of a measurement
BASE = "stock fastai Learner"
TARGETS = (Target("busfast", "ceiling", 0.95),)
OTHERS: dict[str, dict[str, Any]] = {  # tried, not part of busfast
    "ceiling + bfloat16 autocast": {"autocast": True}, "ceiling + foreach Adam": {"foreach": True},
    "ceiling + denormals flushed": {"flush": True}, "ceiling + one thread less": {"fewer": 1},
    "ceiling + torch.compile": {"compiled": True},
}


def stock(arch: str, size: int, bs: int, device: torch.device) -> Ready:
    """A stock fastai Learner."""
    return _learner(stock_learner, arch, size, bs, False, device)


def busfast(arch: str, size: int, bs: int, device: torch.device, parts: tuple[str, ...] = ALL) -> Ready:
    """busfast's Learner with these parts of the fast step."""
    return _learner(lambda dls, arch: busfast_learner(arch, parts, device=device), arch, size, bs,
                    "channels_last" in parts, device)


def _learner(make, arch: str, size: int, bs: int, channels_last: bool, device: torch.device) -> Ready:
    warm, timed = (ResidentBatch(size, bs, steps, channels_last, device).loaders() for steps in (1, _steps(device)))
    learn = make(timed, arch)

    def measure() -> float:
        learn.dls = warm  # allocates again what was returned after the last measurement
        epoch_seconds(learn)
        learn.dls = timed
        return len(timed.train) * bs / epoch_seconds(learn)

    return Ready(measure, {})


def ceiling(arch: str, size: int, bs: int, device: torch.device, flush: bool = False, fewer: int = 0, **how) -> Ready:
    """The bare loop; `how`: as for `BareLoop`."""
    if flush:
        torch.set_flush_denormal(True)
    if fewer:
        torch.set_num_threads(max(1, torch.get_num_threads() - fewer))
    timed, warm = (ResidentBatch(size, bs, steps, True, device) for steps in (_steps(device), 1))
    loop = BareLoop(arch, timed, **how)

    def measure() -> float:
        loop.batches = warm
        loop.seconds()
        loop.batches = timed
        return len(timed) * bs / loop.seconds()

    return Ready(measure, {})


def _steps(device: torch.device) -> int:
    """Steps of a measurement: a GPU does many in the time of one on a CPU."""
    return STEPS if device.type == "cpu" else 100 * STEPS


def contenders(arch: str, size: int, bs: int, device: torch.device) -> list[Contender]:
    """Returns all contenders."""
    settings: dict[str, Any] = {"arch": arch, "size": size, "bs": bs, "device": device}
    elsewhere = ("amp", "rare_looks") if device.type == "cpu" else ("keep_memory",)  # without effect on this device
    without = [Contender(f"busfast without {part}", busfast, settings | {"parts": tuple(set(ALL) - {part})})
               for part in ALL if part not in elsewhere]
    return [Contender(BASE, stock, settings), Contender("busfast", busfast, settings), *without,
            Contender("ceiling", ceiling, settings),
            *(Contender(name, ceiling, settings | how) for name, how in OTHERS.items())]


def run(arch: str, size: int, bs: int, rounds: int, device: torch.device, only: list[str]) -> Report:
    """Measures training steps; takes the flags of `bench`."""
    outcomes = compete(pick(contenders(arch, size, bs, device), only), rounds)
    notes = [
        f"{arch}, {size} px, batches of {bs} in memory; {_steps(device)} steps after one that is not timed. "
        f"{MEDIAN.format(rounds)}",
        "ceiling: the same model with all parts in a bare loop of forward, weighted loss, backward and fused Adam.",
        "busfast without X: one part of the step switched off; ceiling + X: something that is not part of busfast.",
        "Parts without effect on the device have no row.",
        MEMORY,
    ]
    return Report(f"Training steps of {arch}, {size} px", tabulate(outcomes, BASE), ("img_per_s", "images a second"),
                  TARGETS, notes, reasons(outcomes))
