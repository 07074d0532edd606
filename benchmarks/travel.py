"""How good a model is at a center that it has never seen, and what makes it better there.

Each center is left out in turn, and each recipe is trained on the others. Makes the table of docs/travel.md. Another
recipe is one line in OPTIONS; what needs no other training (which epoch, averages, mirrored images) is in VIEWS.
"""

import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from common import run_all, run_study, threads_of
from fastai.callback.core import Callback
from fastai.learner import Learner
from option_looks import (
    change_device,
    change_images,
    convolve_randomly,
    mix_amplitudes,
    mix_histograms,
    mix_styles,
    standardize,
)
from option_parts import Contrast, GroupDRO, MaskLoss, OtherBackground, cut_borders, equalize_contrast
from options import BASE, Option, balance, half_interval, prepare
from scipy.special import log_softmax, softmax
from sklearn.metrics import roc_auc_score

from busfast.bench.report import Report
from busfast.data.split import Split
from busfast.data.table import Table
from busfast.files import make_folder
from busfast.pipelines.config import Config
from busfast.pipelines.pipeline_file import folder_name
from busfast.pipelines.splits import split_data
from busfast.training.build import build
from busfast.training.recipe import recipe_callbacks

DEFAULTS = {"data": None, "seeds": "42,43,44", "size": 96, "only": "", "keep": "results/travel",
            "device": "cpu", "jobs": 1}
OPTIONS = {
    BASE: Option(),
    "borders cut": Option(change_data=partial(cut_borders, share=0.08)),
    "12 epochs": Option({"epochs": 12}),
    "lesion masks drawn": Option(change_learner=lambda learn: learn.add_cb(MaskLoss(learn))),
    "background replaced": Option(change_learner=lambda learn: learn.add_cb(OtherBackground(learn))),
    "group DRO": Option(change_learner=lambda learn: learn.add_cb(GroupDRO(learn))),
    "contrast across centers": Option(change_learner=lambda learn: learn.add_cb(Contrast(learn))),
    "CLAHE in every part": Option(change_data=equalize_contrast),
    "balanced sampling, no class weights": Option(change_learner=balance),
    "z-score": Option(change_learner=change_images(standardize, share=1, everywhere=True)),
    "MixStyle": Option(change_learner=mix_styles),
    "histograms mixed": Option(change_learner=change_images(mix_histograms)),
    "Fourier amplitudes mixed": Option(change_learner=change_images(mix_amplitudes, pixels=True)),
    "brightness, blur and JPEG": Option(change_learner=change_images(change_device, pixels=True, share=1)),
    "RandConv": Option(change_learner=change_images(convolve_randomly)),
    "augmentation strong": Option({"augment": ("strong",)}),
    "random resized crop": Option({"augment": ("flip", "rotate", "crop")}),
    "zoom": Option({"augment": ("flip", "rotate", "zoom")}),
    "strong augmentation, 12 epochs": Option({"augment": ("strong",), "epochs": 12}),
}


class Watch(Callback):
    """Keeps the logits of the validation part, and the weights, of each epoch.

    Attributes:
        logits: float32, (n, k), of each epoch.
        states: the weights of each epoch.
    """

    run_train = False

    def __init__(self):
        self.logits, self.states = [], []

    def before_validate(self):
        self._batches = []

    def after_pred(self):
        self._batches.append(self.pred)

    def after_validate(self):
        self.logits.append(torch.cat(self._batches).float().cpu().numpy())

    def after_epoch(self):
        self.states.append({name: value.clone() for name, value in self.learn.model.state_dict().items()})


class Mirror(Callback):
    """Mirrors the images."""

    def before_batch(self):
        self.learn.xb = (self.x.flip(-1),)


def train(option: Option, config: Config, split: Split, folder: Path) -> dict[str, np.ndarray]:
    """Trains on the training part, and predicts the validation part and the left-out center after each epoch.

    Args:
        option: the change to `BASE`.
        config: of `BASE`.
        split: one center is its test part.
        folder: for what the option writes.

    Returns:
        Logits: epochs, (epochs, n, k); mirrored, (n, k), of the mirrored images by the last epoch's weights; average,
        average_mirrored, by the mean of the weights of the last third of the epochs; statistics, with the images' own
        batch statistics in the place of the training images'. And labels, int (n,); left_out, bool (n,); centers, (n,).
    """
    config = replace(config, **option.config)
    if option.change_data:
        split = option.change_data(split, folder)
    # One pass predicts both parts. Nothing is chosen in this training, so the left-out center may be beside validation;
    # shuffled, as statistics of a batch should be those of a mixture.
    order = pd.Categorical(split.rows["part"], ["train", "valid", "test", "unused"], ordered=True)
    rows = split.rows.assign(order=order).sample(frac=1, random_state=0).sort_values("order", kind="stable")
    left_out = (rows["part"] == "test").to_numpy()[rows["part"].isin(["valid", "test"])]
    rows["part"] = rows["part"].replace({"test": "valid"})
    learn = build(config, replace(split, rows=rows.drop(columns="order").reset_index(drop=True)))
    if option.change_learner:
        option.change_learner(learn)
    watch = Watch()
    with learn.no_bar(), learn.no_logging():
        learn.fit(config.epochs, cbs=[*recipe_callbacks(config, learn), watch])
        found = {"epochs": np.stack(watch.logits), "mirrored": predict(learn, mirrored=True)}
        last = watch.states[-max(1, config.epochs // 3):]
        found |= {"average": watch.logits[-1], "average_mirrored": found["mirrored"]}
        if len(last) > 1:
            learn.model.load_state_dict({name: torch.stack([state[name].float() for state in last]).mean(0)
                                        .to(value.dtype) for name, value in last[0].items()})
            found |= {"average": predict(learn), "average_mirrored": predict(learn, mirrored=True)}
            learn.model.load_state_dict(watch.states[-1])
        for norm in (module for module in learn.model.modules() if isinstance(module, torch.nn.BatchNorm2d)):
            norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None
        found["statistics"] = predict(learn)
    items = learn.dls.valid_ds.items
    return found | {"labels": valid_labels(learn), "left_out": left_out, "centers": items["center"].to_numpy(str)}


def valid_labels(learn: Learner) -> np.ndarray:
    """Returns the labels of the validation part, int (n,)."""
    return learn.dls.valid_ds.items["label"].map(list(learn.dls.vocab).index).to_numpy(int)


def keep_once(path: Path, folder: Path, make: Callable[[], dict[str, np.ndarray]]) -> None:
    """Makes arrays and writes them to a file, unless it is there; `folder` holds it until it is whole."""
    if not path.is_file():
        np.savez_compressed(folder / path.name, **make())
        shutil.move(folder / path.name, path)


def predict(learn: Learner, mirrored: bool = False) -> np.ndarray:
    """Returns the logits of the validation part, (n, k)."""
    watch = Watch()
    learn.validate(cbs=[watch, *([Mirror()] if mirrored else [])])
    return watch.logits[0]


def score(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Scores the images of some centers: macro_auc, of the classes present; pair_auc, of the last class against the one
    before it among the images of both; accuracy."""
    present = [index for index in range(probabilities.shape[1]) if 0 < (labels == index).sum() < len(labels)]
    last = probabilities.shape[1] - 1
    both = labels >= last - 1
    share = probabilities[both, last] / probabilities[both, last - 1:].sum(1).clip(1e-12)
    return {"macro_auc": np.mean([roc_auc_score(labels == index, probabilities[:, index]) for index in present]),
            "pair_auc": roc_auc_score(labels[both] == last, share),
            "accuracy": (probabilities.argmax(1) == labels).mean()}


def _best(found: dict[str, np.ndarray], measure: Callable[[np.ndarray, np.ndarray, np.ndarray], float]) -> np.ndarray:
    """The logits of the epoch whose validation part has the highest measure of labels, logits and centers; the first if
    the measure is not defined."""
    valid = ~found["left_out"]
    values = [measure(found["labels"][valid], logits[valid], found["centers"][valid]) for logits in found["epochs"]]
    return found["epochs"][int(np.argmax(np.nan_to_num(values, nan=-np.inf)))]


def _likelihood(labels: np.ndarray, logits: np.ndarray, _) -> float:
    return log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean()


def _macro(labels: np.ndarray, logits: np.ndarray, _) -> float:
    return score(labels, softmax(logits, axis=1))["macro_auc"]


def _of_centers(labels: np.ndarray, logits: np.ndarray, centers: np.ndarray) -> float:
    return np.mean([_macro(labels[centers == name], logits[centers == name], None) for name in set(centers)
                    if len(set(labels[centers == name])) > 1])


# What is read from one training -> logits, (n, k), whose probabilities are averaged.
CHOSEN = "val_loss chooses"
ALL = -1  # in the place of a seed: all of them, averaged
VIEWS = {
    CHOSEN: lambda found: [_best(found, _likelihood)],
    "macro AUC chooses": lambda found: [_best(found, _macro)],
    "mean over training centers chooses": lambda found: [_best(found, _of_centers)],
    "last epoch": lambda found: [found["epochs"][-1]],
    "last epoch, mirrored, too": lambda found: [found["epochs"][-1], found["mirrored"]],
    "weights of the last third averaged": lambda found: [found["average"]],
    "weights averaged, mirrored, too": lambda found: [found["average"], found["average_mirrored"]],
    "last epoch, batch norm by the center's own batches": lambda found: [found["statistics"]],
}


def probabilities(found: dict[str, np.ndarray], view: str) -> np.ndarray:
    """Returns the probabilities of a view, (n, k)."""
    return np.mean([softmax(logits, axis=-1) for logits in VIEWS[view](found)], axis=0)


def assess(found: dict[str, np.ndarray], shares: np.ndarray) -> dict[str, float]:
    """Scores probabilities, (n, k), of one training: of its validation part (valid_...) and of the left-out center."""
    rows = found["left_out"]
    return {f"valid_{name}": value for name, value in score(found["labels"][~rows], shares[~rows]).items()} | \
        score(found["labels"][rows], shares[rows])


def list_scores(trained: dict[tuple[str, int, str], dict[str, np.ndarray]]) -> pd.DataFrame:
    """Scores every view of every training (option, seed, center); rows of seed `ALL` are those of the mean of all
    seeds' probabilities, at the left-out center alone."""
    rows, together = [], defaultdict(list)
    for (option, seed, center), found in trained.items():
        for view in VIEWS:
            shares = probabilities(found, view)
            rows.append({"option": option, "view": view, "seed": seed, "center": center} | assess(found, shares))
            together[option, view, center].append((found["labels"][found["left_out"]], shares[found["left_out"]]))
    for (option, view, center), each in together.items():
        mean = np.mean([shares for _, shares in each], axis=0)
        rows.append({"option": option, "view": view, "seed": ALL, "center": center} | score(each[0][0], mean))
    return pd.DataFrame(rows)


def summarize(scores: pd.DataFrame) -> pd.DataFrame:
    """Makes a row per option and view: the left-out centers' mean scores; the gain of macro_auc and pair_auc over
    `BASE` with half the width of its 95% t-interval, seed by seed; those of all seeds' mean (ensemble_...); the
    validation part's macro AUC."""
    means = scores.groupby(["option", "view", "seed"], sort=False).mean(numeric_only=True)
    rows = []
    for (option, view), group in means.groupby(["option", "view"], sort=False):
        group = group.droplevel([0, 1])
        each, row = group.drop(ALL), {"name": f"{option}; {view}", "seeds": len(group) - 1}
        for name in ("macro_auc", "pair_auc"):
            gain = each[name] - means.loc[(BASE, CHOSEN)][name].drop(ALL)
            row |= {name: each[name].mean(), f"gain_{name}": gain.mean(), f"gain_{name}_95": half_interval(gain),
                    f"ensemble_{name}": group.loc[ALL, name]}
        rows.append(row | {"accuracy": each["accuracy"].mean(), "valid_macro_auc": each["valid_macro_auc"].mean()})
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class _Task:
    option: str
    config: Config
    center: str
    split: Split

    def path(self, keep: Path) -> Path:
        return keep / f"{folder_name(self.option)}-{self.config.size}-{self.config.seed}-{self.center}.npz"

    def train(self, folder: Path, keep: Path) -> None:
        """Trains and keeps what is found, if it is not there."""
        path = self.path(keep)
        keep_once(path, folder, lambda: train(OPTIONS[self.option], self.config, self.split, folder / path.stem))


def _list_tasks(names: Sequence[str], config: Config, table: Table, duplicates: pd.DataFrame,
                seeds: Sequence[int]) -> Iterator[_Task]:
    for seed in seeds:
        seeded = replace(config, seed=seed)
        folds = split_data(table, duplicates, seeded, "leave_one_center_out")
        for name in names:
            for split in folds.values():
                yield _Task(name, seeded, split.fold, split)


def run(folder: Path, data: str, seeds: Sequence[int], size: int, only: list[str], keep: str, device: torch.device,
        jobs: int) -> Report:
    """Trains every recipe with every seed without each center.

    Args:
        folder: to write to; the caller removes it.
        data, seeds, keep, device, jobs: see `HELP` of common.py.
        size: side of the images, pixels, except for the options that set another.
        only: words of options' names; empty: all. `BASE` is always trained.

    Raises:
        UserError: wrong data; data of one center.
    """
    names, config, table, duplicates = prepare(OPTIONS, data, size, only)
    make_folder(Path(keep))
    config = replace(config, device=device.type, threads=threads_of(jobs))
    tasks = list(_list_tasks(names, config, table, duplicates, seeds))
    run_all([partial(task.train, folder, Path(keep)) for task in tasks], jobs)
    trained = {}
    for task in tasks:
        with np.load(task.path(Path(keep))) as file:
            trained[task.option, task.config.seed, task.center] = found = dict(file)
        print(f"  {task.option}, seed {task.config.seed}, without {task.center}: " + ", ".join(
            f"{name} {value:.3f}" for name, value in assess(found, probabilities(found, CHOSEN)).items()), flush=True)
    scores = list_scores(trained)
    each = "; ".join(f"{option}, without {center}: {', '.join(f'{value:.3f}' for value in group['pair_auc'])}"
                     for (option, center), group in scores.query("view == @CHOSEN and seed != @ALL").groupby(
                         ["option", "center"], sort=False))
    notes = [
        f"{config.arch} at {size} px in batches of {config.bs}, lr {config.lr:g}, the first {config.freeze} stages "
        f"frozen after {config.freeze_after}; leave_one_center_out, seeds {', '.join(map(str, seeds))} (of the "
        "validation part, too).",
        "macro_auc, pair_auc (the last class against the one before it) and accuracy: of the left-out centers, their "
        "mean; valid_macro_auc: of the validation part, which is of the training centers.",
        "ensemble: the seeds' probabilities averaged (for the epochs' choice, each seed's own).",
        f"gain: mean difference to {BASE}; {CHOSEN}, seed by seed; _95: half of its 95% t-interval. A gain smaller "
        "than that may be chance.",
        f"pair_auc, seed by seed: {each}.",
    ]
    return Report("A center that the model has not seen", summarize(scores),
                  ("pair_auc", "AUC of the last two classes"), (), notes, device=device)


if __name__ == "__main__":
    run_study("travel", __doc__, DEFAULTS, run)
