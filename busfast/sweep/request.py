"""The flags of a sweep, checked before torch is imported."""

from dataclasses import dataclass

from optuna.distributions import BaseDistribution

from busfast.errors import UserError, check_range, choose
from busfast.pipelines.config import Config
from busfast.pipelines.settings import convert
from busfast.processes import cores
from busfast.sweep.space import ends, read_space
from busfast.timm_names import refuse_unknown_model

PRUNERS = ("median", "none")


@dataclass(frozen=True)
class Request:
    """The checked flags of a sweep."""

    config: Config  # with the pipeline's own values
    space: dict[str, BaseDistribution]  # key to vary -> distribution
    trials: int  # including those before a resume
    jobs: int  # trials side by side
    objective: str  # the logged column to optimize
    pruner: str  # "median" or "none"


def read_request(config: Config, params: str, trials: int | str, jobs: int | str, objective: str,
                 pruner: str) -> Request:
    """Checks the flags of a sweep; UserError for a value that is not allowed.
    `params`: see `read_space`; `objective`: a logged column; `trials` and `jobs` may be text."""
    trials, jobs = convert("trials", trials, int), convert("jobs", jobs, int)
    check_range("trials", trials, 1, 10_000)
    check_range("jobs", jobs, 1, cores(), "the cores of this machine")
    choose("objective", objective, config.measures)
    choose("monitor", config.monitor, config.measures)
    choose("pruner", pruner, PRUNERS)
    space = read_space(params, config)
    if "arch" in space and config.weights not in ("auto", "none"):
        raise UserError(f"--weights={config.weights} fits one model only, so arch cannot be varied. Leave one of them "
                        "out.")
    for arch in ends(space["arch"]) if "arch" in space else ():
        refuse_unknown_model(arch)
    return Request(config, space, trials, min(jobs, trials), objective, pruner)
