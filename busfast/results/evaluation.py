"""predictions.csv -> scores, calibration, operating points, referral; needs no model and no GPU."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from busfast.csvfile import read_frame, write_csv
from busfast.errors import UserError
from busfast.pipelines.config import Config
from busfast.pipelines.positive import plain_positive, require_positive
from busfast.results.calibration import calibrate, choose_threshold, fit_temperature, operate, refer
from busfast.results.calibration_table import CHANGE, calibration_table, describe_temperature
from busfast.results.delong import delong
from busfast.results.metrics import assess, count_shares
from busfast.results.net_benefit import decision_curve
from busfast.results.predictions import (
    EXTERNAL,
    RECORD,
    arrays,
    predict_parts,
    read_history,
    read_positive,
    read_predictions,
    require_single_label,
    update_record,
)
from busfast.results.predictive_values import PREVALENCES, check_prevalences, predictive_values
from busfast.results.printing import add_count, format_interval, print_evaluation
from busfast.results.scores import count_rates
from busfast.results.written import FORMAT, read_intervals
from busfast.text import MANY
from busfast.training.runs import Run, describe_unfinished
from busfast.yamlfile import read_yaml

TARGET = 0.9


@dataclass(frozen=True)
class External:
    """Another labelled set, which a finished model is scored on in the place of its test part."""

    command: str  # that scores it
    notes: tuple[str, ...]  # what was scored, and what was left out
    changes: pd.DataFrame | None = None  # against the run's own part, as `compare_sets` returns them
    changed: tuple[str, ...] = ()  # the same in sentences
    images: Mapping[str, Path] = field(default_factory=dict)  # the file of each image that was scored


@dataclass(frozen=True)
class Evaluation:
    """The scores of a run; each table is computed when it is first asked for."""

    run: Run  # on an external set: only names the folder of its files
    config: Config
    record: dict[str, Any]  # the `run:` of its config.yaml, with `unfinished`
    history: list[dict[str, Any]]  # each time that its test part was scored
    predictions: pd.DataFrame  # as `read_predictions` returns them, with calibrated probabilities c_CLASS
    temperature: float | None  # fitted on the validation part; None: the probabilities are not calibrated
    positive: str  # the class that thresholds are for
    targets: tuple[float, ...]  # sensitivities that thresholds reach
    reuse: bool = False  # whether to take the intervals that `evaluate` wrote
    external: External | None = None  # the set that is scored; None: the run's own test part
    chosen: Mapping[float, float] | None = None  # target -> threshold of a bundle; None: from the validation part
    prevalences: tuple[float, ...] = PREVALENCES  # that predictive values are computed for

    @property
    def tested(self) -> str:
        """The part that scores are reported of."""
        return EXTERNAL if self.external else "test"

    @property
    def where(self) -> str:
        """The part that scores are reported of, for people."""
        return "EXTERNAL set" if self.external else "test part"

    @cached_property
    def parts(self) -> list[str]:
        """The parts that there are predictions of; a bundle has no validation part."""
        return [name for name in ("valid", self.tested) if len(self.part(name))]

    def part(self, name: str) -> pd.DataFrame:
        """Returns the predictions of a part."""
        return self.predictions[self.predictions["part"] == name]

    @property
    def test(self) -> pd.DataFrame:
        """The predictions of the part that scores are reported of."""
        return self.part(self.tested)

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """The scores of both parts, as `assess` returns them."""
        return self._table("metrics", partial(assess, self.predictions, self.config.classes))

    def _table(self, name: str, compute: Callable[..., pd.DataFrame]) -> pd.DataFrame:
        """Computes a table, with the intervals that `evaluate` wrote where they belong to it."""
        if self.reuse:
            table = read_intervals(self.run.results / f"{name}.csv", compute(with_intervals=False))
            if table is not None:
                return table
            print(f"{self.run.name}: {name}.csv holds other scores than these; computing its intervals again")
        return compute()

    @cached_property
    def calibration(self) -> pd.DataFrame:
        """A row per part, kind of probabilities and score, as `calibration_table` returns them."""
        return self._table("calibration", self._calibration)

    def _calibration(self, with_intervals: bool = True) -> pd.DataFrame:
        classes = self.config.classes if len(self.config.classes) <= MANY else (self.positive,)
        return pd.concat([calibration_table(self.part(part), self.config.classes, self.states, classes, with_intervals)
                          for part in self.parts], ignore_index=True).assign(temperature=self.temperature or np.nan)

    @property
    def calibration_notes(self) -> list[str]:
        """Sentences on the temperature, and on the positive class's probabilities."""
        table = self.calibration[(self.calibration["part"] == self.tested)
                                 & (self.calibration["probabilities"] == self.states[-1][0])].set_index("score")
        intercept, slope = (format_interval(table.loc[f"{name}_{self.positive}"]) for name in ("intercept", "slope"))
        notes = ["The model has no temperature: its probabilities are as trained."] if self.temperature is None else \
            describe_temperature(self.calibration, self.part("valid"), self.temperature, self.tested, self.where)
        return [*notes, f"Probabilities of {self.positive}, {self.states[-1][0]}: calibration intercept {intercept}, "
                f"which is 0 if they are right and above 0 if they are too low; slope {slope}, which is 1 if they are "
                "right and below 1 if they are too extreme."]

    @property
    def worsened(self) -> list[str]:
        """The sentence on the temperature, if it is shown to make the reported probabilities worse."""
        rows = self.calibration[self.calibration["part"] == self.tested]
        change = rows[(rows["score"] == "brier") & (rows["probabilities"] == CHANGE)]
        return self.calibration_notes[:1] if (change["low"] > 0).any() else []

    @property
    def failures(self) -> list[str]:
        """Sentences on what makes the model useless as it is, if anything does."""
        low = self.pick("macro_auc")["low"]
        texts = [f"The model is not shown to be better than chance: the interval of its macro AUC on the {self.where} "
                 f"begins at {low:.3f}, and chance is 0.5."] if low <= 0.5 else []
        return texts + [f"The threshold for a sensitivity of {target:g} decides {self.positive} for every image of the "
                        f"{self.where} that is not." for (target, _), rows in self.points_of_test()
                        if rows.set_index("score")["estimate"].get("specificity") == 0]

    @property
    def states(self) -> list[tuple[str, str]]:
        """The kinds of probabilities, and the prefix of their columns."""
        return [("as trained", "p_"), *([] if self.temperature is None else [("calibrated", "c_")])]

    @cached_property
    def thresholds(self) -> Mapping[float, float]:
        """The threshold for each target; empty if the validation part has no positive image."""
        if self.chosen is not None:
            return self.chosen
        positive, values, _ = self.calls("valid")
        return {target: choose_threshold(positive, values, target) for target in self.targets} if positive.any() else {}

    @cached_property
    def points(self) -> pd.DataFrame:
        """A row per target, part and score: target, threshold, part, score, estimate, low, high."""
        return self._table("operating_points", self._points)

    def _points(self, with_intervals: bool = True) -> pd.DataFrame:
        columns = ["target", "threshold", "part", "score", "estimate", "low", "high"]
        rows = [pd.DataFrame(columns=columns)]
        for target, threshold in self.thresholds.items():
            for part in self.parts:
                positive, values, groups = self.calls(part)
                found = operate(positive, values, threshold, groups, with_intervals)
                rows.append(found.reset_index(names="score").assign(target=target, threshold=threshold, part=part))
        return pd.concat(rows[1:] or rows, ignore_index=True)[columns]

    def calls(self, part: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns which images of a part are positive, their calibrated probabilities of it, and their groups."""
        of_part = self.part(part)
        return ((of_part["label"] == self.positive).to_numpy(), of_part[f"c_{self.positive}"].to_numpy(),
                of_part["group"].to_numpy())

    @cached_property
    def predictive_values(self) -> pd.DataFrame:
        """A row per target, prevalence and score of the part that scores are reported of; see `predictive_values`."""
        return self._table("predictive_values", self._predictive_values)

    def _predictive_values(self, with_intervals: bool = True) -> pd.DataFrame:
        positive, values, groups = self.calls(self.tested)
        columns = ["target", "threshold", "prevalence", "score", "estimate", "low", "high"]
        rows = [predictive_values(positive, values, threshold, groups, self.prevalences, with_intervals).assign(
            target=target, threshold=threshold) for target, threshold in self.thresholds.items()]
        return pd.concat(rows or [pd.DataFrame(columns=columns)], ignore_index=True)[columns]

    @cached_property
    def decision_curve(self) -> pd.DataFrame:
        """The net benefit of the part that scores are reported of, as `decision_curve` returns it."""
        return decision_curve(*self.calls(self.tested))

    @cached_property
    def delong(self) -> pd.DataFrame:
        """A row per class: score, and estimate, low, high of its AUC as `delong` returns them."""
        test = self.test
        return pd.DataFrame([(f"auc_{name}", *delong((test["label"] == name).to_numpy(), test[f"p_{name}"].to_numpy(),
                                                     test["group"].to_numpy())) for name in self.config.classes],
                            columns=["score", "estimate", "low", "high"])

    @cached_property
    def referral(self) -> pd.DataFrame:
        """Coverage against error, as `refer` returns it; empty without a validation part to choose confidences on."""
        if "valid" not in self.parts:
            return pd.DataFrame(columns=["wanted", "threshold", "coverage", "error", "low", "high"])
        valid, test = (arrays(self.part(part), self.config.classes, "c_") for part in self.parts)
        return self._table("referral", partial(refer, valid, test, self.test["group"].to_numpy()))

    def points_of_test(self) -> Iterable[tuple[tuple[float, float], pd.DataFrame]]:
        """Returns target and threshold, and the rows of `points`, of the part that scores are reported of."""
        return self.points[self.points["part"] == self.tested].groupby(["target", "threshold"])

    def predictive_values_at(self, target: float) -> Iterator[tuple[float, dict[str, str]]]:
        """Yields each prevalence, and the predictive values there of a target's threshold as text, by their score."""
        table = self.predictive_values
        for prevalence, pair in table[table["target"] == target].groupby("prevalence"):
            yield prevalence, {row["score"]: format_interval(row) for _, row in pair.iterrows()}

    def pick(self, name: str, part: str = "", by: str = "all", value: str = "") -> pd.Series:
        """Returns a row of the metrics; by default of the part that scores are reported of."""
        return self.metrics.iloc[self._places[part or self.tested, by, value, name]]

    @cached_property
    def _places(self) -> dict[tuple[str, str, str, str], int]:
        """The row of the metrics for each part, by, value and score. A report asks for hundreds."""
        keys = self.metrics[["part", "by", "value", "score"]].itertuples(index=False, name=None)
        return {key: place for place, key in enumerate(keys)}

    @cached_property
    def shares(self) -> dict[tuple[str, str, str, str], tuple[int, int]]:
        """What the scores that are shares of images are of, as `count_shares` returns it."""
        return count_shares(self.predictions, self.config.classes)

    def show(self, name: str, part: str = "", by: str = "all", value: str = "") -> str:
        """Returns a score with its interval and, of a share, its images: "0.875 (0.671 to 0.960), 21 of 24"."""
        text = format_interval(self.pick(name, part, by, value))
        return add_count(text, self.shares.get((part or self.tested, by, value, name)))

    def show_point(self, threshold: float, part: str, rows: pd.DataFrame) -> dict[str, str]:
        """Returns the rates of a part at a threshold, `rows` of `points`, as `show` does, by their score."""
        positive, values, _ = self.calls(part)
        counts = count_rates(positive, values >= threshold)
        return {row["score"]: add_count(format_interval(row), counts[row["score"]]) for _, row in rows.iterrows()}

    def has(self, name: str, part: str = "") -> bool:
        """Returns whether there is such a score of a part."""
        return (part or self.tested, "all", "", name) in self._places


def check_target(target: float | str) -> float:
    """Returns the target as a number; UserError: it is no sensitivity."""
    try:
        number = float(target)
    except ValueError:
        number = 0
    if not 0 < number <= 1:
        raise UserError(f"target={target} is no sensitivity: give a number above 0 and up to 1, such as 0.95.")
    return number


def check_request(run: Run, config: Config, target: float | str, positive: str | None) -> tuple[float, str]:
    """Checks the target and the positive class (None: as recorded, see `choose_positive`) before a model is run, and
    returns them. UserError: the class is unknown or has to be asked for, or the target is no sensitivity."""
    given = read_positive(run, config) if positive is None else positive
    return check_target(target), require_positive(config, run.name, given)


def choose_positive(run: Run, config: Config) -> str:
    """Returns the positive class of a run: the one that `evaluate` was given, or the pipeline file names, or else that
    is plain from the names of its classes; "" if none is, or each image has several labels."""
    return "" if config.label_delim else read_positive(run, config) or plain_positive(config.classes)


def summarize(run: Run, *, target: float | str = TARGET, positive: str | None = None, prevalence: Any = None,
              reuse: bool = False) -> Evaluation:
    """Reads predictions.csv and evaluates it.

    Args:
        run: a run that `predict_parts` has predicted.
        target: a sensitivity for `positive` to reach on the validation part, in addition to 0.9.
        positive: the class that thresholds are for; None: see `choose_positive`.
        prevalence: for which to compute predictive values, see `check_prevalences`; None: as recorded by `evaluate`.
        reuse: take the intervals that `evaluate` wrote, where they belong to these predictions and this request.

    Raises:
        UserError: see `read_predictions`, `check_request` and `check_prevalences`.
    """
    config, record = run.read_config()
    require_single_label(config, "report")
    table = read_predictions(run, config.classes)
    target, positive = check_request(run, config, target, positive)
    if prevalence is None and (run.results / RECORD).is_file():
        prevalence = read_yaml(run.results / RECORD).get("prevalence")
    record = record | {"unfinished": describe_unfinished(run, config, record)}
    return make_evaluation(run, config, record, table, positive, target, reuse=reuse,
                           prevalences=check_prevalences(prevalence))


def make_evaluation(run: Run, config: Config, record: dict[str, Any], table: pd.DataFrame, positive: str,
                    target: float = TARGET, temperature: float | None = None, **more: Any) -> Evaluation:
    """Evaluates predictions; the temperature is fitted to their validation part, if they have one."""
    labels, logits = arrays(table, config.classes, "logit_")
    valid = (table["part"] == "valid").to_numpy()
    if valid.any():
        temperature = fit_temperature(logits[valid], labels[valid])
    calibrated = calibrate(logits, temperature or 1)
    table = table.join(pd.DataFrame(calibrated, table.index, [f"c_{name}" for name in config.classes]))
    return Evaluation(run, config, record, read_history(run), table, temperature, positive,
                      tuple(sorted({TARGET, target})), **more)


def evaluate_run(run: Run, *, target: float | str = TARGET, positive: str | None = None, prevalence: Any = None,
                 again: bool = False, **flags) -> Evaluation:
    """Scores a run's validation and test part, writes predictions and tables into its folder, and prints the scores.

    Args:
        run: a trained run.
        target, positive, prevalence: see `summarize`; the latter two, if given, are recorded for the other verbs.
        again, flags: see `predict_parts`.

    Raises:
        UserError: see `predict_parts`, `check_request` and `check_prevalences`.
    """
    check_request(run, run.read_config()[0], target, positive)
    given = {"positive": positive, "prevalence": prevalence and list(check_prevalences(prevalence))}
    predict_parts(run, again=again, **flags)
    update_record(run, **{key: value for key, value in given.items() if value})
    found = summarize(run, target=target, positive=positive)
    write_tables(found)
    print_evaluation(found)
    return found


def write_tables(found: Evaluation) -> None:
    """Writes metrics.csv and the other tables of scores beside predictions.csv."""
    for name, table in (("metrics", found.metrics), ("operating_points", found.points), ("referral", found.referral),
                        ("predictive_values", found.predictive_values), ("decision_curve", found.decision_curve),
                        ("calibration", found.calibration)):
        write_csv(table, found.run.results / f"{name}.csv", float_format=FORMAT)


def read_explanation(run: Run) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Returns localisation.csv and probes.csv of a run; None if it was not explained."""
    files = {run.results / "localisation.csv": ("measure", "images"),
             run.results / "probes.csv": ("probe", "score", "images", "chance")}
    if not all(path.is_file() for path in files):
        return None
    maps, probes = (read_frame(path, (*columns, "estimate", "low", "high"), empty=True)
                    for path, columns in files.items())
    if "verdict" not in probes:
        probes["verdict"] = "No verdict: an older busfast wrote this. Run explain again."
    return maps, probes
