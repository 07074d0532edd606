"""fastai's learning-rate finder on a split: a suggestion on screen, the curve as a picture."""

from contextlib import nullcontext
from pathlib import Path

import pandas as pd
from fastai.callback.schedule import minimum, valley

from busfast.data.split import Split
from busfast.figures import STYLES, add_legend, new_figure, save_figure
from busfast.files import atomic
from busfast.pipelines.backends import Backend
from busfast.pipelines.config import Config
from busfast.pipelines.splits import is_phantom
from busfast.training.build import build
from busfast.training.log import on_terminal
from busfast.training.runs import new_run
from busfast.training.user_learner import UserLearner


def find_lr(pipeline: str, config: Config, name: str, split: Split, backend: Backend,
            user_learner: UserLearner | None = None) -> tuple[float, Path]:
    """Trains with a growing learning rate and discards the weights; writes lr_find.png and lr_find.csv.

    Args:
        pipeline, config, name, split: as those of `train_run`.
        backend: as `choose_backend` returns it.
        user_learner: the user's function that changes the Learner.

    Returns:
        The suggested learning rate, a tenth of that of the lowest loss, and the folder. fastai's own "valley" is drawn
        for comparison; it comes too early on the long flat start of the curve, which a zero-initialized head causes.
    """
    learn = build(config, split, backend=backend)
    if user_learner is not None:
        user_learner.apply(learn)
    run = new_run(pipeline, f"lr_find-{name}")
    run.models.rmdir()  # no weights are kept
    learn.model_dir = run.results
    print("trying learning rates from 1e-7 to 10 (at most 100 batches)", flush=True)
    with nullcontext() if on_terminal() else learn.no_bar():
        suggested = learn.lr_find(show_plot=False, suggest_funcs=(minimum, valley))
    curve = pd.DataFrame({"lr": learn.recorder.lrs, "loss": [float(loss) for loss in learn.recorder.losses]})
    with atomic(run.results / "lr_find.csv") as file:
        curve.to_csv(file, index=False)
    _draw(run.results / "lr_find.png", curve, {"suggested (a tenth of the lowest loss's)": suggested.minimum,
                                               "fastai's valley": suggested.valley},
          f"{pipeline}/{name}, {config.arch}" + (", PHANTOM (synthetic images)" if is_phantom(config) else ""))
    return float(suggested.minimum), run.results


def _draw(path: Path, curve: pd.DataFrame, rates: dict[str, float], caption: str) -> None:
    figure, (axes,) = new_figure("Learning-rate finder", caption)
    shown = curve.iloc[len(curve) // 10:-5] if len(curve) > 20 else curve  # as fastai shows it
    axes.plot(shown["lr"], shown["loss"], color=STYLES[0]["color"])
    for (label, rate), style in zip(rates.items(), STYLES[1:], strict=False):
        axes.axvline(rate, color=style["color"], linestyle=style["linestyle"], label=f"{label}: {rate:.2e}")
    axes.set_xscale("log")
    axes.set(xlabel="learning rate", ylabel="training loss, smoothed")
    add_legend(axes, "upper left")
    save_figure(figure, path)
