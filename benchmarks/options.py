"""What one more option is worth: each is added to `--preset=fast` by itself, over several seeds.

Makes the table of docs/options.md. Another option is one line in OPTIONS.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
from common import run_study
from fastai.callback.core import Callback
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from option_parts import balance_classes, equalize_contrast
from scipy import stats

from busfast.bench.report import Report
from busfast.data.check import check_images
from busfast.data.split import Split
from busfast.data.table import Table, read_table
from busfast.pipelines.config import Config
from busfast.pipelines.pipeline_file import load_config
from busfast.pipelines.splits import split_data
from busfast.progress import progress
from busfast.training.build import build
from busfast.training.recipe import recipe_callbacks

DEFAULTS = {"data": None, "seeds": "42,43,44", "size": 128, "only": ""}
BASE = "busfast --preset=fast"


@dataclass(frozen=True)
class Option:
    """One change to `BASE`.

    Attributes:
        config: keys of the configuration.
        change_learner: is given the Learner before it trains.
        change_data: is given the split table and a folder to write to; returns the table to train on.
    """

    config: dict = field(default_factory=dict)
    change_learner: Callable[[Learner], None] | None = None
    change_data: Callable[[pd.DataFrame, Path], pd.DataFrame] | None = None


def balance(learn: Learner) -> None:
    learn.loss_func = CrossEntropyLossFlat()
    balance_classes(learn.dls.train)


OPTIONS = {
    BASE: Option(),
    "label smoothing .1": Option({"label_smoothing": 0.1}),
    "focal loss, gamma 2": Option({"loss": "focal"}),
    "no class weights": Option({"loss": "cross_entropy"}),
    "balanced sampling, no class weights": Option(change_learner=balance),
    "mixup .2": Option({"mixup": 0.2}),
    "cutmix 1": Option({"cutmix": 1.0}),
    "augmentation standard": Option({"augment": ("standard",)}),
    "augmentation strong": Option({"augment": ("strong",)}),
    "averaged weights, .98 a step": Option({"ema": 0.98}),
    "mirrored at validation, too": Option({"tta": "flip"}),
    "CLAHE in every part": Option({"cache": "off"}, change_data=equalize_contrast),
    "classifier first, then lr/100 to lr": Option({"freeze": 0, "freeze_after": 0, "unfreeze_after": 1,
                                                   "lr_mult": 100}),
    "nothing frozen": Option({"freeze": 0}),
    "160 px": Option({"size": 160}),
    "192 px": Option({"size": 192}),
    "tf_efficientnet_lite0": Option({"arch": "tf_efficientnet_lite0"}),
    "efficientnet_b0, random weights": Option({"weights": "none"}),
    "resnet18, random weights": Option({"arch": "resnet18", "weights": "none"}),
}


class Scores(Callback):
    """Keeps the validation scores of each epoch, over all fits of a Learner.

    Attributes:
        rows: val_loss, macro_auc and macro_recall of each epoch.
    """

    order = 55  # after the Recorder

    def __init__(self):
        self.rows = []

    def after_epoch(self):
        values = dict(zip(self.recorder.metric_names[1:], self.recorder.values[-1], strict=False))
        recalls = [value for name, value in values.items() if name.startswith("recall_")]
        self.rows.append({"val_loss": values["val_loss"], "macro_auc": values["macro_auc"],
                          "macro_recall": sum(recalls) / len(recalls)})


def train(option: Option, config: Config, split: Split, folder: Path) -> dict[str, float]:
    """Trains with an option.

    Args:
        option: the change to `BASE`.
        config: of `BASE`.
        split: see `build`.
        folder: for what the option writes.

    Returns:
        The row of `Scores` of the epoch with the lowest val_loss.
    """
    config = replace(config, **option.config)
    if option.change_data:
        split = option.change_data(split, folder)
    learn = build(config, split)
    if option.change_learner:
        option.change_learner(learn)
    scores = Scores()
    with learn.no_bar(), learn.no_logging():
        learn.fit(config.epochs, cbs=[*recipe_callbacks(config, learn), scores])
    return min(scores.rows, key=lambda row: row["val_loss"])


def half_interval(gains: pd.Series) -> float | None:
    """Returns half of the 95% t-interval of the mean of some gains; None of a single one."""
    count = len(gains)
    return stats.t.ppf(0.975, count - 1) * gains.std(ddof=1) / count ** 0.5 if count > 1 else None


def prepare(options: Mapping[str, Option], data: str, size: int,
            only: Sequence[str]) -> tuple[list[str], Config, Table, pd.DataFrame]:
    """Returns the names of the options whose name contains one of the words `only` (none: all) and of `BASE`, the
    configuration of `BASE` at a size, the table of the data folder, and its duplicates. UserError: wrong data."""
    names = [name for name in options if name == BASE or not only or any(word in name for word in only)]
    _, config = load_config(data=data, preset="fast", device="cpu", size=size)
    table = read_table(config.data, config.classes)
    return names, config, table, check_images(table)


def summarize(runs: pd.DataFrame) -> pd.DataFrame:
    """Makes one row per option of runs (name, seed, macro_auc, macro_recall, val_loss).

    Returns:
        name, seeds; mean and standard deviation of the macro AUC, the mean of its difference to `BASE`, seed by seed
        (`gain`), and half the width of that difference's 95% t-interval (`gain_95`); means of the other two.
    """
    base = runs[runs["name"] == BASE].set_index("seed")["macro_auc"]
    rows = []
    for name, group in runs.groupby("name", sort=False):
        auc = group["macro_auc"]
        gain = group.set_index("seed")["macro_auc"] - base
        rows.append({"name": name, "seeds": len(group), "macro_auc": auc.mean(), "macro_auc_sd": auc.std(ddof=1),
                     "gain": gain.mean(), "gain_95": half_interval(gain), "macro_recall": group["macro_recall"].mean(),
                     "val_loss": group["val_loss"].mean()})
    return pd.DataFrame(rows)


def run(folder: Path, data: str, seeds: Sequence[int], size: int, only: list[str]) -> Report:
    """Trains with every option and every seed, seed by seed.

    Args:
        folder: to write to; the caller removes it.
        data, seeds: see `HELP` of common.py; a seed is of split, weights, order and augmentation.
        size: side of the images, pixels, except for the options that set another.
        only: words of options' names; empty: all. `BASE` is always trained.

    Raises:
        UserError: wrong data.
    """
    names, config, table, duplicates = prepare(OPTIONS, data, size, only)
    rows = []
    for seed in seeds:
        seeded = replace(config, seed=seed)
        split = split_data(table, duplicates, seeded, "stratified")["stratified"]
        for name in progress(names, f"seed {seed}"):
            scores = train(OPTIONS[name], seeded, split, folder / f"{seed}")
            rows.append({"name": name, "seed": seed} | scores)
            print(f"  {name}, seed {seed}: " + ", ".join(f"{key} {value:.4f}" for key, value in scores.items()),
                  flush=True)
    runs = pd.DataFrame(rows)
    each = "; ".join(f"{name}: {', '.join(f'{value:.3f}' for value in group['macro_auc'])}"
                     for name, group in runs.groupby("name", sort=False))
    notes = [
        f"{config.epochs} epochs of {config.arch} at {size} px in batches of {config.bs}, lr {config.lr:g}, the first "
        f"{config.freeze} stages frozen after {config.freeze_after}; stratified split, seeds "
        f"{', '.join(map(str, seeds))} (of the split, too); one change at a time.",
        "Scores of the validation part at the epoch of its lowest val_loss (unweighted cross-entropy); _sd: standard "
        "deviation over the seeds. The test part is not scored.",
        f"gain: mean difference of the macro AUC to {BASE}, seed by seed; gain_95: half of its 95% t-interval. "
        "A gain smaller than that may be chance.",
        f"Macro AUC, seed by seed: {each}.",
    ]
    return Report("What one more option is worth", summarize(runs), ("macro_auc", "macro AUC (validation)"), (), notes)


if __name__ == "__main__":
    run_study("options", __doc__, DEFAULTS, run)
