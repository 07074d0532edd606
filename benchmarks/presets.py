"""What `--preset=best` gains over `--preset=fast`: at a center that it has never seen, and on its own validation part.

Makes the table "The presets" of docs/travel.md. Each is trained with every seed on a stratified split, of which only
the validation part is scored, and without each center in turn. The members of an ensemble share the seed's split.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from time import process_time

import numpy as np
import pandas as pd
import torch
from common import run_all, run_study, threads_of
from options import half_interval
from scipy.special import softmax
from travel import Watch, keep_once, score, valid_labels

from busfast.bench.report import Report
from busfast.data.check import check_images
from busfast.data.split import UNUSED, Split
from busfast.data.table import Table, read_table
from busfast.files import make_folder
from busfast.pipelines.config import MEMBERS, PRESETS, Config
from busfast.pipelines.pipeline_file import load_config
from busfast.pipelines.splits import list_seeds, split_data
from busfast.training.build import build
from busfast.training.recipe import recipe_callbacks

DEFAULTS = {"data": None, "seeds": "45,46,47", "size": 224, "only": "", "keep": "results/presets", "device": "cpu",
            "jobs": 1}
NAMES = ("fast", "best")  # gains are over the first
STRATIFIED = "stratified"  # in the place of a left-out center: none is


class WatchMirrored(Watch):
    """Keeps the mirrored images' logits, too.

    Attributes:
        mirrored: as `logits`.
    """

    def __init__(self):
        super().__init__()
        self.mirrored = []

    def before_validate(self):
        super().before_validate()
        self._mirrored = []

    def after_pred(self):
        super().after_pred()
        with torch.no_grad():
            self._mirrored.append(self.model(self.x.flip(-1)))

    def after_validate(self):
        super().after_validate()
        self.mirrored.append(torch.cat(self._mirrored).float().cpu().numpy())

    def probabilities(self, epoch: int) -> dict[str, np.ndarray]:
        """Returns those of an epoch, (n, k): none, of the images; flip, the mean with those of the mirrored ones."""
        own, mirrored = (softmax(logits[epoch], axis=1) for logits in (self.logits, self.mirrored))
        return {"none": own, "flip": (own + mirrored) / 2}


def train(config: Config, split: Split) -> dict[str, np.ndarray]:
    """Trains once for both values of tta, each of which chooses its epoch by val_loss.

    Returns:
        Probabilities, (n, k): valid_none, valid_flip, left_out_none, left_out_flip, the last two without rows if the
        split has no test part. Labels, int (n,): valid, left_out. And seconds of processor time that training took.
    """
    start = process_time()
    learn, watch = build(config, split), WatchMirrored()
    with learn.no_bar(), learn.no_logging():
        learn.fit(config.epochs, cbs=[*recipe_callbacks(config, learn), watch])
    found = {"seconds": np.array(process_time() - start), "valid": valid_labels(learn),
             "left_out": np.zeros(0, int)}
    left_out = split.rows["part"].replace({"valid": UNUSED, "test": "valid"})
    other = build(config, replace(split, rows=split.rows.assign(part=left_out))) if "valid" in set(left_out) else None
    for tta in ("none", "flip"):
        each = [watch.probabilities(epoch)[tta] for epoch in range(config.epochs)]
        epoch = int(np.argmin([-np.log(shares[np.arange(len(shares)), found["valid"]]).mean() for shares in each]))
        found |= {f"valid_{tta}": each[epoch], f"left_out_{tta}": each[epoch][:0]}
        if other:
            other.model.load_state_dict(watch.states[epoch])
            with other.no_bar():
                other.validate(cbs=[unseen := WatchMirrored()])
            found |= {"left_out": valid_labels(other), f"left_out_{tta}": unseen.probabilities(0)[tta]}
    return found


@dataclass(frozen=True)
class _Task:
    preset: str
    seed: int  # of the split
    config: Config  # of a member
    center: str  # that is left out, or STRATIFIED
    split: Split

    def path(self, keep: Path) -> Path:
        recipe = sha256(repr(replace(self.config, tta="none", threads=0, data="")).encode()).hexdigest()[:8]
        return keep / f"{self.seed}-{self.config.seed}-{self.center}-{recipe}.npz"  # one file for both values of tta

    def train(self, folder: Path, keep: Path) -> None:
        """Trains and keeps what is found, if it is not there."""
        keep_once(self.path(keep), folder, lambda: train(replace(self.config, tta="none"), self.split))


def _list_tasks(table: Table, configs: dict[str, Config], seeds: Sequence[int]) -> Iterator[_Task]:
    duplicates = check_images(table)
    for seed in seeds:
        config = replace(configs[NAMES[0]], seed=seed)
        splits = {split.fold: split for split in split_data(table, duplicates, config, "leave_one_center_out").values()}
        split, = split_data(table, duplicates, config, STRATIFIED).values()
        hidden = split.rows["part"].replace({"test": UNUSED})  # nothing looks at the test part
        splits[STRATIFIED] = replace(split, rows=split.rows.assign(part=hidden))
        for preset, config in configs.items():
            config = replace(config, seed=seed, split_seed=seed)
            for member in list_seeds(str(MEMBERS[preset]), config) if preset in MEMBERS else [config]:
                for center, split in splits.items():
                    yield _Task(preset, seed, member, center, split)


def assess(members: Sequence[dict[str, np.ndarray]], tta: str) -> dict[str, float]:
    """Scores the mean of the members' probabilities: of the left-out center, or, of a stratified split, of the
    validation part (valid_...); seconds: of all members' trainings."""
    part = "left_out" if len(members[0]["left_out"]) else "valid"
    found = score(members[0][part], np.mean([each[f"{part}_{tta}"] for each in members], axis=0))
    seconds = {"seconds": sum(float(each["seconds"]) for each in members)}
    return found if part == "left_out" else seconds | {f"valid_{name}": value for name, value in found.items()}


def summarize(scores: pd.DataFrame) -> pd.DataFrame:
    """Makes a row per preset of the scores of each (preset, seed, center): means over centers, then seeds, and the
    gains over the first preset, seed by seed, each with half of its 95% t-interval (_95)."""
    means = scores.groupby(["preset", "seed"], sort=False).mean(numeric_only=True)
    rows = []
    for preset in NAMES:
        each = means.loc[preset]
        row = {"name": f"busfast --preset={preset}", "seeds": len(each)} | each.mean().to_dict()
        for name in filter(each.columns.__contains__, ("valid_macro_auc", "macro_auc", "pair_auc")):
            gains = each[name] - means.loc[NAMES[0], name]
            row |= {f"gain_{name}": gains.mean(), f"gain_{name}_95": half_interval(gains)}
        rows.append(row)
    return pd.DataFrame(rows)


def run(folder: Path, data: str, seeds: Sequence[int], size: int, only: list[str], keep: str, device: torch.device,
        jobs: int) -> Report:
    """Trains both presets with every seed, on a stratified split and without each center.

    Args:
        folder: to write to; the caller removes it.
        data, seeds, keep, device, jobs: see `HELP` of common.py.
        size: that the pipeline file would name, pixels; each preset makes its own of it.
        only: words of the names of left-out centers, or "stratified"; empty: all.

    Raises:
        UserError: wrong data; data of one center.
    """
    sized = replace(load_config(data=data, size=size)[1], device=device.type, threads=threads_of(jobs))
    configs = {preset: replace(sized, **PRESETS[preset](sized)) for preset in NAMES}
    table = read_table(sized.data, sized.classes)
    make_folder(Path(keep))
    tasks = [task for task in _list_tasks(table, configs, seeds)
             if not only or any(word in task.center for word in only)]
    trainings = {task.path(Path(keep)): task for task in tasks}.values()  # the first member of best is fast
    trainings = sorted(trainings, key=lambda task: task.config.seed != task.seed and task.center != STRATIFIED)
    run_all([partial(task.train, folder, Path(keep)) for task in trainings], jobs)
    scores = list_scores(tasks, Path(keep))
    each = "; ".join(f"{preset}, {center}: {', '.join(f'{value:.3f}' for value in group[name].dropna())}"
                     for name, rows in (("pair_auc", scores.query("center != @STRATIFIED")),
                                        ("valid_macro_auc", scores.query("center == @STRATIFIED")))
                     for (preset, center), group in rows.groupby(["preset", "center"], sort=False))
    notes = [
        "valid_...: of the validation part of a stratified split; the others: of the left-out centers, their mean. "
        "pair_auc: the last class against the one before it.",
        "seconds: processor time of the training on the stratified split, all members of an ensemble together.",
        f"gain: mean difference to --preset={NAMES[0]}, seed by seed; _95: half of its 95% t-interval.",
        f"Seed by seed, pair_auc without a center and valid_macro_auc of {STRATIFIED}: {each}.",
    ]
    drawn = ("pair_auc", "AUC of the last two classes") if "pair_auc" in scores else ("valid_macro_auc", "macro AUC")
    return Report("Two presets", summarize(scores), drawn, (), notes, device=device)


def list_scores(tasks: Sequence[_Task], keep: Path) -> pd.DataFrame:
    """Reads what was kept, and returns the scores of each (preset, seed, center)."""
    members: dict[tuple[str, int, str], list[dict[str, np.ndarray]]] = {}
    for task in tasks:
        with np.load(task.path(keep)) as file:
            members.setdefault((task.preset, task.seed, task.center), []).append(dict(file))
    ttas = {task.preset: task.config.tta for task in tasks}
    return pd.DataFrame([{"preset": preset, "seed": seed, "center": center} | assess(found, ttas[preset])
                         for (preset, seed, center), found in members.items()])


if __name__ == "__main__":
    run_study("presets", __doc__, DEFAULTS, run)
