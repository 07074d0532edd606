"""Labels and probabilities -> every score, for many weightings of the images at once.

An interval computes the same scores a thousand times, with other weights of the same images each time. With one sort
for all of them, 1,000 weightings of 3,000 predictions take about a second; scikit-learn, one call per score and
replicate, takes minutes. The values are scikit-learn's (the tests compare them).
"""

from collections.abc import Sequence

import numpy as np

PRESENT = {"macro_auc": "auc", "balanced_accuracy": "sensitivity"}  # what is a mean of the classes present, too
BINS = 15  # of the expected calibration error: Guo et al. 2017 (arXiv 1706.04599)


def names(classes: Sequence[str]) -> list[str]:
    """Returns the names of the scores, in the order of a report."""
    each = ("auc", "ap", "sensitivity", "specificity", "ppv", "npv", "f1")
    return ["macro_auc", "accuracy", "balanced_accuracy", "macro_ap", "macro_f1", "mcc", "brier", "ece",
            *(f"{score}_{name}" for score in each for name in classes)]


def present(names: Sequence[str]) -> list[str]:
    """Returns each name of a score and, after those in `PRESENT`, that of the mean over the classes present."""
    return [one for name in names for one in (name, *([f"{name}_present"] if name in PRESENT else []))]


def score(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray,
          classes: Sequence[str]) -> dict[str, np.ndarray]:
    """Computes all scores for each weighting of the images.

    Args:
        labels: int, (n,).
        probabilities: (n, k), rows sum to 1.
        weights: (b, n), how often each image counts.
        classes: the k names.

    Returns:
        Float, (b,), by name (see `names`); NaN where a score is undefined: a class without images, the predictive value
        of a class that is never predicted, a mean over classes of which one is undefined. Where images lack a class,
        macro_auc_present and balanced_accuracy_present are means over the others. `brier` is the sum over classes, 0 to
        2; `ece` has 15 bins of the highest probability.
    """
    weights = np.asarray(weights, float)
    found = _confusion_scores(labels, probabilities.argmax(1), weights, classes)
    for index, name in enumerate(classes):
        found[f"auc_{name}"], found[f"ap_{name}"] = rank_scores(labels == index, probabilities[:, index], weights)
    for macro, each in (("macro_auc", "auc"), ("macro_ap", "ap")):
        found[macro] = np.mean([found[f"{each}_{name}"] for name in classes], axis=0)
    total = weights.sum(1)
    wrong = probabilities - (labels[:, None] == np.arange(len(classes)))
    found["brier"] = weights @ (wrong**2).sum(1) / total
    found["ece"] = _calibration_error(labels, probabilities, weights) / total
    kept = [name for index, name in enumerate(classes) if (labels == index).any()]
    fewer = {f"{mean}_present": np.mean([found[f"{each}_{name}"] for name in kept], axis=0)
             for mean, each in PRESENT.items()} if len(kept) < len(classes) else {}
    return {name: found[name] for name in names(classes)} | fewer


def confusion(labels: np.ndarray, predicted: np.ndarray, weights: np.ndarray, k: int) -> np.ndarray:
    """Returns the confusion matrices, (b, k, k): labels in rows, predicted classes in columns."""
    return np.stack([np.bincount(labels * k + predicted, row, k * k) for row in weights]).reshape(-1, k, k)


def divide(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Returns the quotient, NaN where the divisor is 0."""
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)


def rates(hits: np.ndarray, misses: np.ndarray, alarms: np.ndarray, passes: np.ndarray) -> dict[str, np.ndarray]:
    """Returns sensitivity, specificity, ppv and npv of the numbers of true and false positives and negatives."""
    return {"sensitivity": divide(hits, hits + misses), "specificity": divide(passes, passes + alarms),
            "ppv": divide(hits, hits + alarms), "npv": divide(passes, passes + misses)}


def count_rates(positive: np.ndarray, called: np.ndarray) -> dict[str, tuple[int, int]]:
    """Returns what `rates` are shares of: (21, 24) is 21 of 24 images; `positive`, `called`: bool, (n,)."""
    wholes = {"sensitivity": positive, "specificity": ~positive, "ppv": called, "npv": ~called}
    return {name: (int((positive == called)[rows].sum()), int(rows.sum())) for name, rows in wholes.items()}


def rate_groups(positive: np.ndarray, called: np.ndarray, groups: np.ndarray) -> dict[str, int]:
    """Returns on how few groups the scores of a class may rest: those of the images that a share is of, or of the rarer
    of class and rest; `positive`, `called`: bool, (n,)."""
    denominators = {"sensitivity": positive, "specificity": ~positive, "ppv": called, "npv": ~called, "f1": positive}
    found = {name: len(set(groups[rows])) for name, rows in denominators.items()}
    return found | dict.fromkeys(("auc", "ap"), min(found["sensitivity"], found["specificity"]))


def _confusion_scores(labels, predicted, weights, classes) -> dict[str, np.ndarray]:
    """The scores that need only the numbers of the confusion matrix."""
    # Margins and diagonal of the confusion matrix: all of it would not fit into memory for a thousand classes.
    is_label, is_called = (values[:, None] == np.arange(len(classes)) for values in (labels, predicted))
    labeled, called, right = (weights @ cells for cells in (is_label, is_called, is_label & is_called))
    total, correct = weights.sum(1), right.sum(1)
    found = {"accuracy": correct / total}
    for index, name in enumerate(classes):
        hits = right[:, index]
        misses, alarms = labeled[:, index] - hits, called[:, index] - hits
        for key, value in rates(hits, misses, alarms, total - hits - misses - alarms).items():
            found[f"{key}_{name}"] = value
        found[f"f1_{name}"] = divide(2 * hits, 2 * hits + misses + alarms)
    found["balanced_accuracy"] = np.mean([found[f"sensitivity_{name}"] for name in classes], axis=0)
    found["macro_f1"] = np.mean([found[f"f1_{name}"] for name in classes], axis=0)
    # Gorodkin 2004: the correlation of two assignments to classes.
    spread = (total**2 - (labeled**2).sum(1)) * (total**2 - (called**2).sum(1))
    found["mcc"] = divide(correct * total - (labeled * called).sum(1), np.sqrt(np.maximum(spread, 0)))
    return found


def rank_scores(positive: np.ndarray, values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns area under the ROC curve and average precision, (b,), of one class against the rest; equal values are
    ties. `positive`: bool (n,); `values`: (n,); `weights`: (b, n)."""
    order = np.argsort(-values, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(values[order]) != 0])
    hits = np.add.reduceat((weights * positive)[:, order], starts, axis=1)
    alarms = np.add.reduceat((weights * ~positive)[:, order], starts, axis=1)
    above_hits, above_alarms = hits.cumsum(1), alarms.cumsum(1)
    positives, negatives = above_hits[:, -1], above_alarms[:, -1]
    auc = divide((alarms * (above_hits - hits / 2)).sum(1), positives * negatives)
    precision = np.nan_to_num(divide(above_hits, above_hits + above_alarms))
    return auc, divide((hits * precision).sum(1), np.where(negatives > 0, positives, 0))


def _calibration_error(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Expected calibration error times the weights' sum."""
    confidence = probabilities.max(1)
    bins = np.eye(BINS)[np.minimum((confidence * BINS).astype(int), BINS - 1)]
    gap = (probabilities.argmax(1) == labels) - confidence
    return np.abs(weights @ (bins * gap[:, None])).sum(1)
