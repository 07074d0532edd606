"""The evaluation of runs whose images may have several labels: each label by itself, and the means over them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd

from busfast.csvfile import write_csv
from busfast.data.labels import split_labels
from busfast.pipelines.config import Config
from busfast.results.evaluation import External
from busfast.results.intervals import intervals
from busfast.results.metrics import COLUMNS, subsets
from busfast.results.predictions import predict_parts, read_predictions
from busfast.results.printing import format_interval, name_part, print_opening
from busfast.results.scores import divide, rank_scores, rate_groups, rates
from busfast.results.written import FORMAT
from busfast.text import counted
from busfast.training.runs import Run


@dataclass(frozen=True)
class LabelEvaluation:
    """The scores of a run of several labels."""

    run: Run
    config: Config
    record: dict[str, Any]
    predictions: pd.DataFrame  # as `read_predictions` returns them
    external: External | None = None  # the set that is scored; None: the run's own test part
    chosen: np.ndarray | None = None  # the thresholds of a bundle; None: from the validation part

    def arrays(self, rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Returns which labels images have, bool (n, k), and their probabilities, float (n, k)."""
        labels = rows["label"].map(lambda label: set(split_labels(label, self.config.label_delim)))
        return (np.array([[name in found for name in self.config.classes] for found in labels]),
                rows[[f"p_{name}" for name in self.config.classes]].to_numpy(float))

    @cached_property
    def thresholds(self) -> np.ndarray:
        """The threshold of each label, (k,): that with the highest F1 on the validation part."""
        if self.chosen is not None:
            return self.chosen
        positive, values = self.arrays(self.predictions[self.predictions["part"] == "valid"])
        return np.array([best_f1(positive[:, index], values[:, index]) for index in range(values.shape[1])])

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """Scores of both parts: part, by (all, center, device), value, score, estimate, low, high, images, groups."""
        return self.assess()

    def assess(self, with_intervals: bool = True) -> pd.DataFrame:
        """Computes `metrics`; `with_intervals`: see `intervals`."""
        tables = [self._assess_rows(rows, with_intervals).assign(part=part, by=by, value=value)
                  for part, of_part in self.predictions.groupby("part", sort=False)
                  for by, value, rows in subsets(of_part)]
        return pd.concat(tables, ignore_index=True)[COLUMNS]

    def _assess_rows(self, rows: pd.DataFrame, with_intervals: bool) -> pd.DataFrame:
        positive, values = self.arrays(rows)
        groups = rows["group"].to_numpy()
        fewest, rarest = {}, []
        for index, name in enumerate(self.config.classes):
            each = rate_groups(positive[:, index], values[:, index] >= self.thresholds[index], groups)
            fewest |= {f"{key}_{name}": count for key, count in each.items()}
            rarest.append(each["auc"])
        # Means over labels are over those that are defined.
        fewest |= dict.fromkeys(("macro_auc", "macro_ap", "macro_f1"), min(filter(None, rarest), default=0))
        found = intervals(partial(score_labels, positive, values, self.thresholds, classes=self.config.classes),
                          groups, fewest, with_intervals)
        return found.assign(images=len(rows), groups=len(set(groups))).reset_index(names="score")


def best_f1(positive: np.ndarray, values: np.ndarray) -> float:
    """Returns the value, one of `values`, from which on calling images positive has the highest F1; 0.5 if there is no
    positive image."""
    if not positive.any():
        return 0.5
    order = np.argsort(-values, kind="stable")
    hits, called = positive[order].cumsum(), np.arange(1, len(values) + 1)
    last = np.r_[np.diff(values[order]) != 0, True]  # equal values are called together
    f1 = np.where(last, 2 * hits / (called + positive.sum()), -1)
    return float(values[order][f1.argmax()])


def score_labels(positive: np.ndarray, probabilities: np.ndarray, thresholds: np.ndarray, weights: np.ndarray,
                 classes: Sequence[str]) -> dict[str, np.ndarray]:
    """Computes the scores of several labels for each weighting of the images.

    Args:
        positive: which labels images have, bool (n, k).
        probabilities: (n, k).
        thresholds: (k,), from which on a label is called.
        weights: (b, n), how often each image counts.
        classes: the k names.

    Returns:
        Float, (b,), by name; means over labels are over those that are defined.
    """
    weights, found = np.asarray(weights, float), {}
    each: dict[str, list[np.ndarray]] = {"auc": [], "ap": [], "f1": []}
    for index, name in enumerate(classes):
        truth, called = positive[:, index], probabilities[:, index] >= thresholds[index]
        auc, ap = rank_scores(truth, probabilities[:, index], weights)
        hits, misses, alarms, passes = (weights @ cells for cells in (
            truth & called, truth & ~called, ~truth & called, ~truth & ~called))
        scores = {"auc": auc, "ap": ap, "f1": divide(2 * hits, 2 * hits + misses + alarms)}
        for key, value in scores.items():
            each[key].append(value)
        found |= {f"{key}_{name}": value for key, value in (scores | rates(hits, misses, alarms, passes)).items()}
    return {f"macro_{key}": _mean(values) for key, values in each.items()} | found


def _mean(values: list[np.ndarray]) -> np.ndarray:
    stacked = np.stack(values)
    defined = np.isfinite(stacked)
    return divide(np.where(defined, stacked, 0).sum(0), defined.sum(0))


def summarize_labels(run: Run) -> LabelEvaluation:
    """Reads predictions.csv of a run of several labels; raises as `read_predictions`."""
    config, record = run.read_config()
    return LabelEvaluation(run, config, record, read_predictions(run, config.classes, config.label_delim))


def evaluate_labels(run: Run, *, again: bool = False, **flags) -> LabelEvaluation:
    """Scores a run of several labels, writes predictions.csv, metrics.csv and thresholds.csv, and prints the scores.
    Arguments and errors: see `predict_parts`."""
    predict_parts(run, again=again, **flags)
    found = summarize_labels(run)
    write_labels(found)
    return found


def write_labels(found: LabelEvaluation) -> None:
    """Writes metrics.csv and thresholds.csv beside predictions.csv, and prints the means and a line for each label."""
    write_csv(found.metrics, found.run.results / "metrics.csv", float_format=FORMAT)
    write_csv(pd.DataFrame({"class": found.config.classes, "threshold": found.thresholds}),
              found.run.results / "thresholds.csv", float_format="%.9g")  # as predictions.csv: each is of it
    print_opening(found)
    for part, of_part in found.metrics[found.metrics["by"] == "all"].groupby("part", sort=False):
        rows = of_part.set_index("score")
        first = rows.iloc[0]
        print(f"  {name_part(part)}, {counted(int(first['images']), 'image')} of "
              f"{counted(int(first['groups']), 'group')} (patients, duplicates), with 95% intervals:")
        for name in ("macro_auc", "macro_ap", "macro_f1"):
            print(f"    {name:24} {format_interval(rows.loc[name])}")
        for name, threshold in zip(found.config.classes, found.thresholds, strict=True):
            print(f"    {name:24} AUC {format_interval(rows.loc[f'auc_{name}'])}; from {threshold:.3f} on (chosen on "
                  f"validation for F1): sensitivity {format_interval(rows.loc[f'sensitivity_{name}'])}, PPV "
                  f"{format_interval(rows.loc[f'ppv_{name}'])}")
    if found.record.get("leaks"):
        print(f"  warning: the split LEAKS ({found.record['leaks']} in two parts), so these scores are too good")
    print(f"  wrote predictions.csv, metrics.csv, thresholds.csv into {found.run.results}/")


