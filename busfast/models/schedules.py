"""Learning rates over a training: the values of the setting `schedule`, warm-up, and lower rates of early stages."""

from functools import partial
from typing import TypeAlias

import numpy as np
from fastai.callback.schedule import ParamScheduler, SchedCos, SchedLin, combine_scheds, combined_cos

Rate: TypeAlias = float | np.ndarray  # one, or one of each parameter group


def cosine(lr: Rate, lr_min: Rate) -> ParamScheduler:
    """Returns a callback that lowers the learning rate from `lr` to `lr_min` along a cosine, batch by batch."""
    return ParamScheduler({"lr": SchedCos(lr, lr_min)})


def one_cycle(lr: Rate, lr_min: Rate) -> ParamScheduler:
    """Returns fastai's one-cycle schedule: a quarter of the training up from lr / 25, then down to `lr_min`; momentum
    does the opposite. Source: Smith and Topin 2017, arXiv 1708.07120."""
    return ParamScheduler({"lr": combined_cos(0.25, lr / 25, lr, lr_min), "mom": combined_cos(0.25, 0.95, 0.85, 0.95)})


def flat_cos(lr: Rate, lr_min: Rate) -> ParamScheduler:
    """Returns fastai's flat schedule: `lr` for three quarters of the training, then down to `lr_min` along a cosine."""
    return ParamScheduler({"lr": combined_cos(0.75, lr, lr, lr_min)})


SCHEDULES = {"cosine": cosine, "one_cycle": one_cycle, "flat_cos": flat_cos}  # values of the setting `schedule`


def make_schedule(name: str, lr: float, lr_min: float, *, warmup: float = 0.0, lr_mult: float = 1.0,
                  groups: int = 1) -> ParamScheduler:
    """Makes the schedule of a training.

    Args:
        name: a key of `SCHEDULES`.
        lr, lr_min: of the last parameter group.
        warmup: share of the training, 0 to 1, in which the rate first rises from lr / 25, in a line.
        lr_mult: the first group has the rates divided by this; those between are spaced evenly on a logarithmic scale,
            as fastai's `slice(lr / lr_mult, lr)` does.
        groups: number of parameter groups.

    Returns:
        A callback.
    """
    factors = 1.0 if lr_mult == 1 or groups == 1 else np.geomspace(1 / lr_mult, 1, groups)
    schedule = SCHEDULES[name](lr * factors, lr_min * factors)
    if warmup:
        rise = SchedLin(lr * factors / 25, lr * factors)
        schedule.scheds["lr"] = partial(_in_turn, combine_scheds([warmup, 1 - warmup], [rise, schedule.scheds["lr"]]))
    return schedule


def _in_turn(schedules, share: float) -> Rate:
    return schedules(min(share, 1.0))  # fastai's is undefined a rounding error beyond the end
