"""What one training is asked for, and the run that it trains."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from busfast.data.split import Split
from busfast.pipelines.backends import Backend
from busfast.pipelines.config import Config
from busfast.training.runs import Run
from busfast.training.user_learner import UserLearner

if TYPE_CHECKING:
    from fastai.callback.core import Callback


@dataclass(frozen=True)
class Turn:
    """What comes after a training, for the time left.

    Attributes:
        later: how many trainings.
        seconds: how long what else follows will take, as far as that is known.
        until: what is counted, for the screen; "": this training and nothing else.
    """

    later: int = 0
    seconds: float = 0.0
    until: str = ""


@dataclass(frozen=True)
class TrainOptions:
    """What `train_run` is asked for besides configuration and split.

    Attributes:
        resume: continue the latest run of that name, unless it is finished.
        auto_bs: if `config.bs` does not fit into memory, a new run takes the largest batch size that does.
        profile: print after each epoch where its time went, and write profile.csv.
        command: what the user typed, which continues all that it asks for, to be shown with --resume if the training
            fails; if it is interrupted, the caller shows it (`say_how_to_go_on`). "": what trains this run.
        trackers: as `busfast.training.trackers.choose_trackers` returns them.
        callbacks: further callbacks of fastai.
        backend: as `choose_backend` returns it; None: chosen from the configuration.
        learner: the user's function that changes the Learner; None: there is none.
        several: it is one of several runs, so what is to be resumed may never have begun: if the latest run of that
            name has another configuration and is finished, a new one starts.
        turn: what comes after it.
    """

    resume: bool = False
    auto_bs: bool = False
    profile: bool = False
    command: str = ""
    trackers: Sequence[str] = ()
    callbacks: Sequence["Callback"] = ()
    backend: Backend | None = None
    learner: UserLearner | None = None
    several: bool = False
    turn: Turn = Turn()


@dataclass(frozen=True)
class Job:
    """A run to be trained.

    Attributes:
        run, config, split: what to train; those of the run itself if it is continued.
        fresh: its folders have just been created.
        finished: nothing is left to train.
        record: what a continued run was started with (`run:` in its config.yaml).
        state: its last checkpoint; None: the training starts at the first epoch.
    """

    run: Run
    config: Config
    split: Split
    fresh: bool = False
    finished: bool = False
    record: dict[str, Any] | None = None
    state: dict[str, Any] | None = None
