"""fastai's learning-rate finder on a split: a suggestion on screen, the curve as a picture."""

from pathlib import Path

import numpy as np
import pandas as pd
from fastai.callback.core import Callback
from fastai.callback.schedule import minimum, slide, steep, valley
from matplotlib.figure import Figure
from torch import tensor

from busfast.data.split import Split
from busfast.errors import UserError
from busfast.figures import STYLES, add_legend, new_figure, save_figure
from busfast.files import atomic
from busfast.pipelines.backends import Backend
from busfast.pipelines.config import Config
from busfast.pipelines.splits import is_phantom
from busfast.progress import progress
from busfast.training.build import build
from busfast.training.runs import new_run
from busfast.training.user_learner import UserLearner

BATCHES = 100  # at most; fastai's default


class _Progress(Callback):
    """Says how far the finder is. fastai's own bar stays half drawn, as the finder ends within an epoch."""

    def before_fit(self):
        self.batches = progress(range(BATCHES), "trying learning rates")

    def after_batch(self):
        next(self.batches, None)

    def after_fit(self):
        self.batches.close()


def find_lr(pipeline: str, config: Config, name: str, split: Split, backend: Backend,
            user_learner: UserLearner | None = None) -> tuple[float, Path]:
    """Trains with a growing learning rate and discards the weights; writes lr_find.png and lr_find.csv.

    Args:
        pipeline, config, name, split: as those of `train_run`.
        backend: as `choose_backend` returns it.
        user_learner: the user's function that changes the Learner.

    Returns:
        The suggested learning rate, a tenth of that of the lowest loss, and the folder. fastai's other suggestions are
        shown for comparison; its "valley" comes too early on the long flat start of the curve, which a zero-initialized
        head causes.

    Raises:
        UserError: the loss is not finite from the first learning rates on.
    """
    learn = build(config, split, backend=backend)
    if user_learner is not None:
        user_learner.apply(learn)
    run = new_run(pipeline, f"lr_find-{name}")
    run.models.rmdir()  # no weights are kept
    learn.model_dir = run.results
    print(f"trying learning rates from 1e-7 to 10 (at most {BATCHES} batches)")
    learn.add_cb(_Progress())
    with learn.no_bar():
        learn.lr_find(num_it=BATCHES, show_plot=False, suggest_funcs=None)
    curve = pd.DataFrame({"lr": learn.recorder.lrs, "loss": [float(loss) for loss in learn.recorder.losses]})
    with atomic(run.results / "lr_find.csv") as file:
        curve.to_csv(file, index=False)
    suggested = suggest(curve)
    print(f"suggested learning rate: {suggested['minimum']:.2e} (fastai's minimum)")
    print("fastai's other suggestions: "
          + ", ".join(f"{one} {rate:.2e}" for one, rate in suggested.items() if one != "minimum"))
    save_figure(draw(curve, suggested, f"{pipeline}/{name}, {config.arch}"
                     + (", PHANTOM (synthetic images)" if is_phantom(config) else "")), run.results / "lr_find.png")
    return suggested["minimum"], run.results


def suggest(curve: pd.DataFrame) -> dict[str, float]:
    """Returns fastai's four suggestions, by name, from the part of a curve (lr, loss) that fastai reads.
    Raises UserError if the loss is not finite from the first learning rates on."""
    finite = curve[np.isfinite(curve["loss"]).cumprod().astype(bool)]
    read = finite.iloc[10:-5]
    if len(read) < 16:  # fewer than slide compares
        raise UserError(f"The loss is not finite, or grows, after {len(finite)} batches with learning rates up to "
                        f"{curve['lr'].iloc[-1]:.1e}: look for extreme pixels or labels (python -m busfast audit).")
    lrs, losses = tensor(read["lr"].to_numpy()), tensor(read["loss"].to_numpy())
    return {one.__name__: float(one(lrs, losses, len(curve))[0]) for one in (minimum, valley, steep, slide)}


def draw(curve: pd.DataFrame, suggested: dict[str, float], caption: str) -> Figure:
    """Draws the loss over the learning rate, cut off above its start, so that the dip is seen, not the divergence."""
    figure, (axes,) = new_figure("Learning-rate finder", caption)
    shown = curve.iloc[10:]  # the first losses are of few batches
    axes.plot(shown["lr"], shown["loss"], color=STYLES[0]["color"])
    for (name, rate), style in zip(suggested.items(), STYLES[1:], strict=False):
        height = np.interp(np.log(rate), np.log(curve["lr"]), curve["loss"])
        label = "suggested (fastai's minimum)" if name == "minimum" else f"fastai's {name}"
        axes.plot(rate, height, label=f"{label}: {rate:.2e}", color=style["color"], marker=style["marker"],
                  linestyle="none", markersize=8)
    axes.axvline(suggested["minimum"], color=STYLES[1]["color"], linestyle=STYLES[1]["linestyle"])
    lowest = shown["loss"].argmin()
    low, top = shown["loss"].iloc[lowest], shown["loss"].iloc[:lowest + 1].max()
    room = 0.3 * max(top - low, 0.02 * abs(low))
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss, smoothed",
             ylim=(low - 2 * room, top + room))  # the legend is below the dip
    add_legend(axes, "lower left")
    return figure
