"""bench options: what one more option is worth, added to `--preset=fast` one at a time, over several seeds."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
from fastai.callback.core import Callback
from fastai.callback.mixup import CutMix, MixUp
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat, FocalLossFlat, LabelSmoothingCrossEntropyFlat
from scipy import stats

from busfast.bench.option_parts import Averaged, Mirrored, balance, equalize, opencv, two_groups
from busfast.bench.report import Report
from busfast.data.check import check_images
from busfast.data.table import read_table
from busfast.models.freeze import FreezeStages, should_freeze
from busfast.models.learner import cosine
from busfast.pipelines.config import load_config
from busfast.pipelines.splits import split_data
from busfast.progress import progress
from busfast.training.train import build

BASE = "busfast --preset=fast"


@dataclass(frozen=True)
class Option:
    """One thing that is done otherwise than by `BASE`.

    Attributes:
        config: keys of the configuration.
        cbs: makes further callbacks.
        change: is given the Learner before it trains.
        data: takes the split table and a folder to write to; returns the table to train on.
        fit: trains, in place of the cosine schedule; is given the Learner, the epochs, the learning rate and callbacks.
    """

    config: dict = field(default_factory=dict)
    cbs: Callable[[], list[Callback]] = list
    change: Callable[[Learner], None] | None = None
    data: Callable[[pd.DataFrame, Path], pd.DataFrame] | None = None
    fit: Callable[[Learner, int, float, list[Callback]], None] | None = None


def _loss(kind: type, **settings) -> Callable[[Learner], None]:
    """Returns what gives a Learner another loss, with the class weights of the one it had."""
    def change(learn: Learner) -> None:
        learn.loss_func = kind(weight=learn.loss_func.func.weight, **settings)

    return change


def _unweighted(learn: Learner) -> None:
    learn.loss_func = CrossEntropyLossFlat()


def _balanced(learn: Learner) -> None:
    _unweighted(learn)
    balance(learn.dls.train)


def _fine_tune(learn: Learner, epochs: int, lr: float, cbs: list[Callback]) -> None:
    learn.splitter = two_groups
    learn.fine_tune(epochs - 1, base_lr=lr, freeze_epochs=1, cbs=cbs)


OPTIONS = {
    BASE: Option(),
    "label smoothing .1": Option(change=_loss(LabelSmoothingCrossEntropyFlat, eps=0.1)),
    "focal loss, gamma 2": Option(change=_loss(FocalLossFlat, gamma=2.0)),
    "no class weights": Option(change=_unweighted),
    "balanced sampling, no class weights": Option(change=_balanced),
    "mixup .2": Option(cbs=lambda: [MixUp(0.2)]),
    "cutmix 1": Option(cbs=lambda: [CutMix(1.0)]),
    "averaged weights, .98 a step": Option(cbs=lambda: [Averaged(0.98)]),
    "mirrored at validation, too": Option(cbs=lambda: [Mirrored()]),
    "CLAHE in every part": Option({"cache": "off"}, data=equalize),
    "head first, then slice(lr/200, lr/2)": Option({"freeze": 0}, fit=_fine_tune),
    "nothing frozen": Option({"freeze": 0}),
    "160 px": Option({"size": 160}),
    "192 px": Option({"size": 192}),
    "tf_efficientnet_lite0": Option({"arch": "tf_efficientnet_lite0"}),
    "efficientnet_b0, random weights": Option({"weights": "none"}),
    "resnet18, random weights": Option({"arch": "resnet18", "weights": "none"}),
}


class Scores(Callback):
    """Keeps what is measured of the validation part after each epoch, of all fits of a Learner.

    Attributes:
        rows: val_loss, macro_auc and macro_recall, an epoch each.
    """

    order = 55  # after the Recorder

    def __init__(self):
        self.rows = []

    def after_epoch(self):
        values = dict(zip(self.recorder.metric_names[1:], self.recorder.values[-1], strict=False))
        recalls = [value for name, value in values.items() if name.startswith("recall_")]
        self.rows.append({"val_loss": values["val_loss"], "macro_auc": values["macro_auc"],
                          "macro_recall": sum(recalls) / len(recalls)})


def train(option: Option, config, parts: pd.DataFrame, folder: Path) -> dict[str, float]:
    """Trains with an option.

    Args:
        option: what is done otherwise.
        config: of `BASE`.
        parts: the split table.
        folder: for what the option writes.

    Returns:
        What `Scores` keeps, of the epoch with the lowest val_loss.
    """
    config = replace(config, **option.config)
    if option.data:
        parts = option.data(parts, folder)
    learn = build(config, parts)
    if option.change:
        option.change(learn)
    scores = Scores()
    cbs = [scores, *option.cbs()]
    with learn.no_bar(), learn.no_logging():
        if option.fit:
            option.fit(learn, config.epochs, config.lr, cbs)
        else:
            if config.freeze_after and should_freeze(config.freeze, learn.weights_used["text"]):
                cbs.append(FreezeStages(config.freeze, config.freeze_after, config.arch))
            learn.fit(config.epochs, cbs=[cosine(config.lr, config.lr_min), *cbs])
    return min(scores.rows, key=lambda row: row["val_loss"])


def summarise(runs: pd.DataFrame) -> pd.DataFrame:
    """Makes a row an option of runs (name, seed, macro_auc, macro_recall, val_loss).

    Returns:
        name, seeds; mean and standard deviation of the macro AUC, the mean of its difference to `BASE`, seed by seed
        (`gain`), and half the width of that one's 95% t-interval (`gain_95`); means of the other two.
    """
    base = runs[runs["name"] == BASE].set_index("seed")["macro_auc"]
    rows = []
    for name, of in runs.groupby("name", sort=False):
        auc = of["macro_auc"]
        gain = of.set_index("seed")["macro_auc"] - base
        width = stats.t.ppf(0.975, len(gain) - 1) * gain.std(ddof=1) / len(gain) ** 0.5 if len(gain) > 1 else None
        rows.append({"name": name, "seeds": len(of), "macro_auc": auc.mean(), "macro_auc_sd": auc.std(ddof=1),
                     "gain": gain.mean(), "gain_95": width, "macro_recall": of["macro_recall"].mean(),
                     "val_loss": of["val_loss"].mean()})
    return pd.DataFrame(rows)


def run(folder: Path, data: str, seeds: list[int], size: int, only: list[str]) -> Report:
    """Trains with every option and every seed, seed by seed.

    Args:
        folder: to write to; the caller removes it.
        data: the data folder.
        seeds: of the runs: split, weights, order and augmentation.
        size: side of the images, pixels, but for the options that are another size.
        only: words of options; empty: all. `BASE` is always trained.
    """
    names = [name for name in OPTIONS if name == BASE or not only or any(word in name for word in only)]
    if any(OPTIONS[name].data is equalize for name in names):
        opencv()  # refused now, rather than after an hour
    _, config = load_config(data=data, preset="fast", device="cpu", size=size)
    table = read_table(config.data, config.classes)
    duplicates = check_images(table)
    runs = []
    for seed in seeds:
        seeded = replace(config, seed=seed)
        parts = split_data(table, duplicates, seeded, "stratified")["stratified"]
        for name in progress(names, f"seed {seed}"):
            found = train(OPTIONS[name], seeded, parts, folder / f"{seed}")
            runs.append({"name": name, "seed": seed} | found)
            print(f"  {name}, seed {seed}: " + ", ".join(f"{key} {value:.4f}" for key, value in found.items()),
                  flush=True)
    runs = pd.DataFrame(runs)
    each = "; ".join(f"{name}: {', '.join(f'{value:.3f}' for value in of['macro_auc'])}"
                     for name, of in runs.groupby("name", sort=False))
    notes = [
        f"{config.epochs} epochs of {config.arch} at {size} px in batches of {config.bs}, lr {config.lr:g}, the first "
        f"{config.freeze} stages frozen after {config.freeze_after}; stratified split, seeds "
        f"{', '.join(map(str, seeds))} (of the split, too); one thing changed at a time.",
        "Scores of the validation part at the epoch of its lowest val_loss (unweighted cross-entropy); _sd: standard "
        "deviation over the seeds. The test part is not scored.",
        f"gain: mean difference of the macro AUC to {BASE}, seed by seed; gain_95: half of its 95% t-interval. "
        "A gain that is smaller than that may be luck.",
        f"Macro AUC, seed by seed: {each}.",
    ]
    return Report("What one more option is worth", summarise(runs), ("macro_auc", "macro AUC (validation)"), (), notes)
