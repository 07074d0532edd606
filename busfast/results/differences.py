"""Runs side by side on their test parts: paired where the images are the same, and the gap to a held-out center."""

import dataclasses
from functools import partial
from itertools import combinations

import numpy as np
import pandas as pd

from busfast.pipelines.config import Config
from busfast.results.bootstrap import bounds, draw_weights
from busfast.results.evaluation import choose_positive
from busfast.results.predictions import FILE, arrays, read_predictions
from busfast.results.scores import score
from busfast.training.runs import Run

IN_DOMAIN, HELD_OUT = ("stratified", "kfold"), ("center_holdout", "leave_one_center_out")
COLUMNS = ["a", "b", "images", "score", "value_a", "value_b", "difference", "low", "high", "recipe"]
PLACES = ("data", "source", "splits", "holdout", "folds", "device", "threads", "cache")  # no part of a recipe


def compare_tests(runs: list[Run]) -> pd.DataFrame:
    """Computes the differences of the test scores of runs that were evaluated.

    Two runs of a pipeline are compared if their test images are the same (paired: both see the same draws of
    patients), or if one was tested on centers that it was trained on and the other on one that was held out.

    Args:
        runs: those without predictions.csv are left out.

    Returns:
        A row a pair and score (macro AUC, balanced accuracy, sensitivity of the positive class), columns `COLUMNS`:
        difference is b - a, low and high hold 95% of the draws, images says "same" or "different", recipe names what
        else the two were trained with differently.
    """
    read = [(run, *_read(run)) for run in runs if (run.results / FILE).is_file()]
    rows = []
    for pair in combinations(read, 2):
        if pair[0][2] in HELD_OUT and pair[1][2] in IN_DOMAIN:
            pair = pair[::-1]  # the gap is what the held-out center has less
        (a, config_a, split_a, test_a, of_a), (b, config_b, split_b, test_b, of_b) = pair
        if config_a.classes != config_b.classes or a.name.split("/")[0] != b.name.split("/")[0]:
            continue
        same = test_a["image"].equals(test_b["image"]) and test_a["label"].equals(test_b["label"])
        if same or (split_a in IN_DOMAIN and split_b in HELD_OUT):
            recipe = [apart(config_a, config_b), "members" if of_a != of_b else ""]  # of ensembles
            both = {"a": a.name, "b": b.name, "images": "same" if same else "different",
                    "recipe": ", ".join(filter(None, recipe))}
            rows += [both | row for row in _rows(test_a, test_b, config_a.classes, same)]
    return pd.DataFrame(rows, columns=COLUMNS)


def _read(run: Run) -> tuple[Config, str, pd.DataFrame, list[str] | None]:
    config, record = run.read_config()
    predictions = read_predictions(run, config.classes)
    test = predictions[predictions["part"] == "test"].sort_values("image").reset_index(drop=True)
    return config, record.get("split", ""), test, record.get("members")


def apart(*configs: Config) -> str:
    """Names what two runs were trained with differently, places aside."""
    first, second = map(dataclasses.asdict, configs)
    return ", ".join(name for name in first if name not in PLACES and first[name] != second[name])


def _rows(test_a: pd.DataFrame, test_b: pd.DataFrame, classes: tuple[str, ...], same: bool) -> list[dict]:
    shown = ["macro_auc", "balanced_accuracy", f"sensitivity_{choose_positive(classes)}"]
    values, draws = [], []
    for number, test in enumerate((test_a, test_b)):
        measure = partial(score, *arrays(test, classes), classes=classes)
        # The same seed draws the same patients in both; another one draws independently.
        weights = draw_weights((test_a if same else test)["group"].to_numpy(), test["label"].to_numpy(),
                               seed=0 if same else number)
        draws.append(pd.concat([pd.DataFrame(measure(some))[shown] for some in weights], ignore_index=True))
        values.append({name: value[0] for name, value in measure(np.ones((1, len(test)))).items()})
    low, high = bounds(draws[1] - draws[0])
    a, b = values
    return [{"score": name, "value_a": a[name], "value_b": b[name], "difference": b[name] - a[name],
             "low": low[name], "high": high[name]} for name in shown]


def headline(differences: pd.DataFrame) -> list[str]:
    """Says the gap to a held-out center in a sentence for each pair of runs."""
    gaps = differences[(differences["score"] == "macro_auc") & (differences["images"] == "different")]
    return [f"{row.b} against {row.a}: macro AUC {row.value_b:.3f} at the held-out center, {row.value_a:.3f} at home, "
            + (f"difference {row.difference:+.3f} ({row.low:+.3f} to {row.high:+.3f})" if not np.isnan(row.low)
               else "a difference is not defined")
            + (f"; but they also differ in {row.recipe}" if row.recipe else "") for row in gaps.itertuples()]
