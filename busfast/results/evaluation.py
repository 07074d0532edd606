"""predictions.csv -> scores, calibration, operating points, referral; needs no model and no GPU."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd

from busfast.csvfile import read_frame, write_csv
from busfast.errors import UserError, choose
from busfast.pipelines.config import Config
from busfast.results.bootstrap import REPLICATES
from busfast.results.calibration import calibrate, choose_threshold, fit_temperature, operate, refer
from busfast.results.metrics import assess
from busfast.results.predictions import (
    PARTS,
    arrays,
    predict_parts,
    read_history,
    read_predictions,
    require_single_label,
)
from busfast.results.scores import score
from busfast.results.written import FORMAT, read_intervals
from busfast.text import MANY, counted
from busfast.training.runs import Run

TARGET = 0.9
POSITIVE = "malignant"


@dataclass(frozen=True)
class Evaluation:
    """The scores of a run; each table is computed when it is first asked for."""

    run: Run
    config: Config
    record: dict[str, Any]  # the `run:` of its config.yaml
    history: list[dict[str, Any]]  # each time that its test part was scored
    predictions: pd.DataFrame  # as `read_predictions` returns them, with calibrated probabilities c_CLASS
    temperature: float  # fitted on the validation part
    positive: str  # the class that thresholds are for
    targets: tuple[float, ...]  # sensitivities that thresholds reach
    reuse: bool = False  # whether to take the intervals that `evaluate` wrote

    def part(self, name: str) -> pd.DataFrame:
        """Returns the predictions of a part."""
        return self.predictions[self.predictions["part"] == name]

    @property
    def test(self) -> pd.DataFrame:
        """The predictions of the test part."""
        return self.part("test")

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """The scores of both parts, as `assess` returns them."""
        return self._table("metrics", partial(assess, self.predictions, self.config.classes))

    def _table(self, name: str, compute: Callable[..., pd.DataFrame]) -> pd.DataFrame:
        """Computes a table, with the intervals that `evaluate` wrote where they belong to it."""
        if self.reuse:
            table = read_intervals(self.run.results / f"{name}.csv", compute(replicates=0))
            if table is not None:
                return table
            print(f"{self.run.name}: {name}.csv holds other scores than these; computing its intervals again",
                  flush=True)
        return compute()

    @cached_property
    def calibration(self) -> pd.DataFrame:
        """A row per part and kind of probabilities: part, probabilities, brier, ece."""
        rows = []
        for part in PARTS:
            of_part = self.part(part)
            for state, prefix in (("as trained", "p_"), ("calibrated", "c_")):
                scores = score(*arrays(of_part, self.config.classes, prefix), np.ones((1, len(of_part))),
                               self.config.classes)
                rows.append({"part": part, "probabilities": state, "brier": scores["brier"][0],
                             "ece": scores["ece"][0]})
        return pd.DataFrame(rows)

    @cached_property
    def thresholds(self) -> dict[float, float]:
        """The threshold for each target; empty if the validation part has no positive image."""
        valid = self.part("valid")
        positive, values = (valid["label"] == self.positive).to_numpy(), valid[f"c_{self.positive}"].to_numpy()
        return {target: choose_threshold(positive, values, target) for target in self.targets} if positive.any() else {}

    @cached_property
    def points(self) -> pd.DataFrame:
        """A row per target, part and score: target, threshold, part, score, estimate, low, high."""
        return self._table("operating_points", self._points)

    def _points(self, replicates: int = REPLICATES) -> pd.DataFrame:
        columns = ["target", "threshold", "part", "score", "estimate", "low", "high"]
        rows = [pd.DataFrame(columns=columns)]
        for target, threshold in self.thresholds.items():
            for part in PARTS:
                of_part = self.part(part)
                labels, values = of_part["label"].to_numpy(), of_part[f"c_{self.positive}"].to_numpy()
                found = operate(labels == self.positive, values, threshold, of_part["group"].to_numpy(), labels,
                                replicates)
                rows.append(found.reset_index(names="score").assign(target=target, threshold=threshold, part=part))
        return pd.concat(rows[1:] or rows, ignore_index=True)[columns]

    @cached_property
    def referral(self) -> pd.DataFrame:
        """Coverage against error, as `refer` returns it."""
        valid, test = (arrays(self.part(part), self.config.classes, "c_") for part in PARTS)
        return self._table("referral", partial(refer, valid, test, self.test["group"].to_numpy(),
                                               self.test["label"].to_numpy()))

    def pick(self, name: str, part: str = "test", by: str = "all", value: str = "") -> pd.Series:
        """Returns a row of the metrics."""
        table = self.metrics
        return table[(table["part"] == part) & (table["by"] == by) & (table["value"] == value)
                     & (table["score"] == name)].iloc[0]


def check_request(classes: tuple[str, ...], target: float | str, positive: str | None) -> tuple[float, str]:
    """Checks the target and the positive class (None: the default) before a model is run, and returns them.

    Raises:
        UserError: the class is unknown, or the target is no sensitivity.
    """
    try:
        number = float(target)
    except ValueError:
        number = 0
    if not 0 < number <= 1:
        raise UserError(f"target={target} is no sensitivity: give a number above 0 and up to 1, such as 0.95.")
    return number, choose_positive(classes) if positive is None else choose("class", positive, classes)


def choose_positive(classes: tuple[str, ...]) -> str:
    """Returns the default positive class: malignant, or else the last one."""
    return POSITIVE if POSITIVE in classes else classes[-1]


def summarize(run: Run, *, target: float | str = TARGET, positive: str | None = None,
              reuse: bool = False) -> Evaluation:
    """Reads predictions.csv and evaluates it.

    Args:
        run: a run that `predict_parts` has predicted.
        target: a sensitivity for `positive` to reach on the validation part, in addition to 0.9.
        positive: the class that thresholds are for; None: malignant, else the last one.
        reuse: take the intervals that `evaluate` wrote, where they belong to these predictions and this request.

    Raises:
        UserError: see `read_predictions` and `check_request`.
    """
    config, record = run.read_config()
    require_single_label(config, "report")
    target, positive = check_request(config.classes, target, positive)
    table = read_predictions(run, config.classes)
    labels, logits = arrays(table, config.classes, "logit_")
    valid = (table["part"] == "valid").to_numpy()
    temperature = fit_temperature(logits[valid], labels[valid])
    calibrated = calibrate(logits, temperature)
    table = table.join(pd.DataFrame(calibrated, table.index, [f"c_{name}" for name in config.classes]))
    return Evaluation(run, config, record, read_history(run), table, temperature, positive,
                      tuple(sorted({TARGET, target})), reuse)


def evaluate_run(run: Run, *, target: float | str = TARGET, positive: str | None = None, again: bool = False,
                 **flags) -> Evaluation:
    """Scores a run's validation and test part, writes predictions and tables into its folder, and prints the scores.

    Args:
        run: a trained run.
        target, positive: see `summarize`.
        again, flags: see `predict_parts`.

    Raises:
        UserError: see `predict_parts` and `check_request`.
    """
    check_request(run.read_config()[0].classes, target, positive)
    predict_parts(run, again=again, **flags)
    found = summarize(run, target=target, positive=positive)
    write_tables(found)
    print_evaluation(found)
    return found


def write_tables(found: Evaluation) -> None:
    """Writes metrics.csv, calibration.csv, operating_points.csv and referral.csv beside predictions.csv."""
    for name, table in (("metrics", found.metrics), ("operating_points", found.points), ("referral", found.referral),
                        ("calibration", found.calibration.assign(temperature=found.temperature))):
        write_csv(table, found.run.results / f"{name}.csv", float_format=FORMAT)


def print_evaluation(found: Evaluation) -> None:
    """Prints an evaluation in a dozen lines."""
    print(f"\n{found.run.name}: its test part was scored {counted(len(found.history), 'time')} so far"
          + (" (a PHANTOM: synthetic images, says nothing of patients)" if found.record.get("phantom") else ""))
    classes = found.config.classes if len(found.config.classes) <= MANY else (found.positive,)
    shown = ["macro_auc", "balanced_accuracy", *(f"sensitivity_{name}" for name in classes), "ece"]
    for part in PARTS:
        rows = [found.pick(name, part) for name in shown]
        print(f"  {part} part, {counted(int(rows[0]['images']), 'image')} of {counted(int(rows[0]['groups']), 'group')}"
              " (patients, duplicates):")
        for row in rows:
            print(f"    {row['score']:24} {format_interval(row)}")
    last = " (the last class; another: --positive=CLASS)" if found.positive == found.config.classes[-1] != POSITIVE \
        else ""
    for (target, threshold), rows in found.points.query("part == 'test'").groupby(["target", "threshold"]):
        rates = {row["score"]: format_interval(row) for _, row in rows.iterrows()}
        print(f"  {found.positive}{last} if its probability is {threshold:.3f} or more (chosen on validation for a "
              f"sensitivity of {target:g}), test:\n    sensitivity {rates['sensitivity']}, specificity "
              f"{rates['specificity']}")
    if found.record.get("leaks"):
        print(f"  warning: the split LEAKS ({found.record['leaks']} in two parts), so these scores are too good")
    print(f"  wrote predictions.csv, metrics.csv, calibration.csv, operating_points.csv, referral.csv: "
          f"{found.run.results}/\n  research only, not a medical device", flush=True)


def format_interval(row: pd.Series) -> str:
    """Returns "0.912 (0.880 to 0.940)" of a row with estimate, low and high, or "not defined"."""
    if np.isnan(row["estimate"]):
        return "not defined"
    return f"{row['estimate']:.3f} " + ("(no interval)" if np.isnan(row["low"])
                                        else f"({row['low']:.3f} to {row['high']:.3f})")


def read_explanation(run: Run) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Returns localisation.csv and probes.csv of a run; None if it was not explained."""
    files = {run.results / "localisation.csv": ("measure", "images"),
             run.results / "probes.csv": ("probe", "score", "images", "chance", "reading")}
    return tuple(read_frame(path, (*columns, "estimate", "low", "high"), empty=True)
                 for path, columns in files.items()) if all(path.is_file() for path in files) else None


def print_explanation(run: Run) -> None:
    """Prints localisation.csv and probes.csv."""
    maps, probes = read_explanation(run)
    print(f"\n{run.name}: where it looks (Grad-CAM for the predicted class)")
    for _, row in maps.iterrows():
        value = f"{format_interval(row)}, {counted(int(row['images']), 'image')}" if row["images"] else ""
        print(f"  {row['measure']:38} {value}".rstrip())
    print("shortcut probes (validation part; covered images are unlike any it has seen, so small losses say little)")
    for _, row in probes.iterrows():
        value = f"{row['score']} {format_interval(row)}, chance {row['chance']:.2f}. " if row["images"] else ""
        print(f"  {row['probe']:22} {value}{row['reading']}")
