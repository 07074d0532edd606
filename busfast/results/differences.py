"""Differences of test scores between runs: paired if the images are the same; and the gap to a held-out center."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from busfast.pipelines.config import Config
from busfast.results.evaluation import choose_positive
from busfast.results.intervals import differences, jackknife
from busfast.results.metrics import fewest_groups
from busfast.results.predictions import FILE, arrays, read_predictions
from busfast.results.scores import score
from busfast.text import cut_middle, signed
from busfast.training.runs import Run

IN_DOMAIN, HELD_OUT = ("stratified", "kfold"), ("center_holdout", "leave_one_center_out")
COLUMNS = ["a", "b", "images", "score", "value_a", "value_b", "difference", "low", "high", "recipe"]
MOST_PAIRS = 10  # lines on the screen about one set of test images
# Settings that say where a run was trained and tested and what is reported of it, not how it was trained.
NOT_RECIPE = ("data", "source", "positive", "splits", "holdout", "folds", "device", "threads", "cache")


def compare_tests(runs: list[Run]) -> pd.DataFrame:
    """Computes the differences between the test scores of evaluated runs; others are skipped.

    Two runs of a pipeline are compared if their test images are the same (paired: what both share cancels),
    or if one was tested on its training centers and the other on a held-out one.

    Returns:
        A row per pair and score (macro AUC, balanced accuracy, sensitivity of their positive class), columns `COLUMNS`:
        difference is b - a, low and high are the 95% interval, recipe names the settings in which the two differ, and
        "label decisions" if they heeded another labels.csv.
    """
    evaluated = [(run, *_read(run)) for run in runs
                 if (run.results / FILE).is_file() and not run.read_config()[0].label_delim]
    rows = []
    for pair in combinations(evaluated, 2):
        if pair[0][2] in HELD_OUT and pair[1][2] in IN_DOMAIN:
            pair = pair[::-1]  # so that a negative difference is a loss at the held-out center
        (a, config_a, split_a, test_a, record_a), (b, config_b, split_b, test_b, record_b) = pair
        if config_a.classes != config_b.classes or a.name.split("/")[0] != b.name.split("/")[0]:
            continue
        same = test_a["image"].equals(test_b["image"]) and test_a["label"].equals(test_b["label"])
        if same or (split_a in IN_DOMAIN and split_b in HELD_OUT):
            recipe = [differing_settings(config_a, config_b),
                      "members" if record_a.get("members") != record_b.get("members") else "",
                      "label decisions" if _decided(record_a) != _decided(record_b) else ""]
            both = {"a": a.name, "b": b.name, "images": "same" if same else "different",
                    "recipe": ", ".join(filter(None, recipe))}
            positives = {choose_positive(a, config_a), choose_positive(b, config_b)} - {""}
            rows += [both | row for row in _rows(test_a, test_b, config_a.classes, sorted(positives), same)]
    return pd.DataFrame(rows, columns=COLUMNS)


def _read(run: Run) -> tuple[Config, str, pd.DataFrame, dict[str, Any]]:
    config, record = run.read_config()
    predictions = read_predictions(run, config.classes)
    test = predictions[predictions["part"] == "test"].sort_values("image").reset_index(drop=True)
    return config, record.get("split", ""), test, record


def _decided(record: dict[str, Any]) -> str:
    """Returns which decisions about labels a run heeded: the hash of their file; "" for none."""
    return (record.get("label_decisions") or {}).get("sha256", "")


def recipe_of(config: Config) -> dict:
    """Returns the settings that say how a run is trained."""
    return {name: value for name, value in dataclasses.asdict(config).items() if name not in NOT_RECIPE}


def differing_settings(first: Config, second: Config) -> str:
    """Returns the names of the settings in which two recipes differ, separated by commas."""
    other = recipe_of(second)
    return ", ".join(name for name, value in recipe_of(first).items() if value != other[name])


def _rows(test_a: pd.DataFrame, test_b: pd.DataFrame, classes: tuple[str, ...], positives: list[str],
          same: bool) -> list[dict]:
    shown = ["macro_auc", "balanced_accuracy", *(f"sensitivity_{name}" for name in positives)]
    both = []
    for test in (test_a, test_b):
        labels, probabilities = arrays(test, classes)
        groups = (test_a if same else test)["group"].to_numpy()
        both.append(jackknife(partial(score, labels, probabilities, classes=classes), groups,
                              fewest_groups(labels, probabilities.argmax(1), groups, classes)))
    found = differences(both[0], both[1], same).loc[shown]
    if same and np.array_equal(arrays(test_a, classes)[1], arrays(test_b, classes)[1]):
        found[["low", "high"]] = 0.0  # the same predictions, as of a run and its copy, differ for no patients
    return [{"score": name, **row} for name, row in found.iterrows()]


def headline(differences: pd.DataFrame) -> list[str]:
    """Returns the gap to a held-out center, in a sentence for each pair of runs."""
    gaps = differences[(differences["score"] == "macro_auc") & (differences["images"] == "different")]
    return [f"{row.b} against {row.a}: macro AUC {row.value_b:.3f} at the held-out center, {row.value_a:.3f} at the "
            "training centers, "
            + (f"difference {signed(row.difference)} ({signed(row.low)} to {signed(row.high)})" if not np.isnan(row.low)
               else "the difference is not defined" if np.isnan(row.difference)
               else f"difference {signed(row.difference)} (too few patients)")
            + (f"; but they also differ in {row.recipe}" if row.recipe else "") for row in gaps.itertuples()]


def pairs_of(differences: pd.DataFrame, order: Sequence[str]) -> list[str]:
    """Returns the paired differences of macro AUC to the first of the runs that have the same test images.

    Args:
        differences: as `compare_tests` returns them.
        order: names of runs; which of those with the same test images comes first is what the others are compared with.

    Returns:
        A text for each set of test images, of lines of at most 80 characters.
    """
    paired = differences[(differences["score"] == "macro_auc") & (differences["images"] == "same")]
    found = {(row.a, row.b): (row.difference, row.low, row.high) for row in paired.itertuples()}
    found |= {(b, a): (0 - apart, 0 - high, 0 - low) for (a, b), (apart, low, high) in found.items()}
    others: dict[str, list[str]] = {}
    for name in order:
        first = next((one for one in others if (one, name) in found), None)
        others.setdefault(first or name, []).extend([name] if first else [])
    texts = []
    for first, names in others.items():
        lines = [f"Test macro AUC minus that of {first} (the same test images, paired by patients):"]
        for name in names[:MOST_PAIRS]:
            apart, low, high = found[first, name]
            interval = "too few patients" if np.isnan(low) else f"{signed(low)} to {signed(high)}"
            lines.append(f"  {cut_middle(name, 50):50}  {signed(apart)} ({interval})" if not np.isnan(apart) else
                         f"  {cut_middle(name, 50):50}  not defined")
        if len(names) > MOST_PAIRS:
            lines.append(f"  {len(names) - MOST_PAIRS} more are in differences.csv")
        texts += ["\n".join(lines)] if names else []
    return texts
