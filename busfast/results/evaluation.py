"""predictions.csv -> all that is said of a run: scores, calibration, operating points; needs no model and no GPU."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from busfast.csvfile import read_frame, write_csv
from busfast.errors import UserError, choose
from busfast.pipelines.config import Config
from busfast.results.calibration import calibrate, choose_threshold, fit_temperature, operate, refer
from busfast.results.metrics import assess
from busfast.results.predictions import PARTS, arrays, predict_parts, read_history, read_predictions
from busfast.results.scores import score
from busfast.text import counted
from busfast.training.runs import Run

TARGET = 0.9
POSITIVE = "malignant"


@dataclass(frozen=True)
class Evaluation:
    """What was found about a run.

    Attributes:
        run: which.
        config: what it was trained with.
        record: the `run:` of its config.yaml.
        history: each time that its test part was scored.
        predictions: as `read_predictions` returns them, with calibrated probabilities c_CLASS.
        metrics: as `assess` returns it.
        temperature: fitted on the validation part.
        calibration: a row a part and kind of probabilities: part, probabilities, brier, ece.
        positive: the class that thresholds are for.
        points: a row a target, part and score: target, threshold, part, score, estimate, low, high.
        referral: as `refer` returns it.
    """

    run: Run
    config: Config
    record: dict[str, Any]
    history: list[dict[str, Any]]
    predictions: pd.DataFrame
    metrics: pd.DataFrame
    temperature: float
    calibration: pd.DataFrame
    positive: str
    points: pd.DataFrame
    referral: pd.DataFrame

    @property
    def test(self) -> pd.DataFrame:
        """The predictions of the test part."""
        return self.predictions[self.predictions["part"] == "test"]

    def pick(self, name: str, part: str = "test", by: str = "all", value: str = "") -> pd.Series:
        """Returns a row of the metrics."""
        table = self.metrics
        return table[(table["part"] == part) & (table["by"] == by) & (table["value"] == value)
                     & (table["score"] == name)].iloc[0]


def check_request(classes: tuple[str, ...], target: float | str, positive: str | None) -> tuple[float, str]:
    """Returns the target and the class that thresholds are for; to be checked before a model is run.

    Args:
        classes: of the run.
        target: sensitivity to reach.
        positive: a class; None: malignant, else the last one.

    Raises:
        UserError: an unknown class, or a target that is no share.
    """
    try:
        number = float(target)
    except ValueError:
        number = 0
    if not 0 < number <= 1:
        raise UserError(f"target={target} is no sensitivity: give a number above 0 and up to 1, such as 0.95.")
    return number, choose_positive(classes) if positive is None else choose("class", positive, classes)


def choose_positive(classes: tuple[str, ...]) -> str:
    """Returns the class that matters most where nobody says: malignant, or else the last one."""
    return POSITIVE if POSITIVE in classes else classes[-1]


def summarise(run: Run, *, target: float | str = TARGET, positive: str | None = None) -> Evaluation:
    """Computes everything from predictions.csv.

    Args:
        run: a run that `predict_parts` has predicted.
        target: a sensitivity for `positive` to reach on the validation part, besides .9.
        positive: the class that thresholds are for; None: malignant, else the last one.

    Raises:
        UserError: as `read_predictions` and `check_request`.
    """
    config, record = run.read_config()
    classes = config.classes
    target, positive = check_request(classes, target, positive)
    table = read_predictions(run, classes)
    labels, logits = arrays(table, classes, "logit_")
    valid = (table["part"] == "valid").to_numpy()
    temperature = fit_temperature(logits[valid], labels[valid])
    calibrated = calibrate(logits, temperature)
    table = table.assign(**{f"c_{name}": calibrated[:, index] for index, name in enumerate(classes)})
    by_part = {part: table[table["part"] == part] for part in PARTS}
    return Evaluation(run, config, record, read_history(run), table, assess(table, classes), temperature,
                      _calibration(by_part, classes), positive,
                      _points(by_part, positive, sorted({TARGET, target})), _referral(by_part, classes))


def evaluate_run(run: Run, *, target: float | str = TARGET, positive: str | None = None, again: bool = False,
                 **flags) -> Evaluation:
    """Scores a run's validation and test part, writes predictions and tables into its folder, and prints the scores.

    Args:
        run: a trained run.
        target, positive: as those of `summarise`.
        again, flags: as those of `predict_parts`.

    Raises:
        UserError: as `predict_parts` and `check_request`.
    """
    check_request(run.read_config()[0].classes, target, positive)
    predict_parts(run, again=again, **flags)
    found = summarise(run, target=target, positive=positive)
    write_tables(found)
    print_evaluation(found)
    return found


def write_tables(found: Evaluation) -> None:
    """Writes metrics.csv, calibration.csv, operating_points.csv and referral.csv beside predictions.csv."""
    for name, table in (("metrics", found.metrics), ("operating_points", found.points), ("referral", found.referral),
                        ("calibration", found.calibration.assign(temperature=found.temperature))):
        write_csv(table, found.run.results / f"{name}.csv", float_format="%.6g")


def print_evaluation(found: Evaluation) -> None:
    """Prints an evaluation in a dozen lines."""
    print(f"\n{found.run.name}: its test part was scored {counted(len(found.history), 'time')} so far"
          + (" (a PHANTOM: synthetic images, says nothing of patients)" if found.record.get("phantom") else ""))
    shown = ["macro_auc", "balanced_accuracy", *(f"sensitivity_{name}" for name in found.config.classes), "ece"]
    for part in PARTS:
        rows = [found.pick(name, part) for name in shown]
        print(f"  {part} part, {counted(int(rows[0]['images']), 'image')} of {counted(int(rows[0]['groups']), 'group')}"
              " (patients, duplicates):")
        for row in rows:
            print(f"    {row['score']:24} {format_interval(row)}")
    for (target, threshold), rows in found.points.query("part == 'test'").groupby(["target", "threshold"]):
        said = {row["score"]: format_interval(row) for _, row in rows.iterrows()}
        print(f"  {found.positive} from {threshold:.3f} on (chosen on validation for a sensitivity of {target:g}), "
              f"test:\n    sensitivity {said['sensitivity']}, specificity {said['specificity']}")
    if found.record.get("leaks"):
        print(f"  warning: its split LEAKS ({found.record['leaks']} on two sides), so these scores are too good")
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
        print(f"  {row['measure']:38} {format_interval(row)}, {counted(int(row['images']), 'image')}")
    print("shortcut probes (validation part; covered images are unlike any it has seen, so small losses say little)")
    for _, row in probes.iterrows():
        value = f"{row['score']} {format_interval(row)}, chance {row['chance']:.2f}. " if row["images"] else ""
        print(f"  {row['probe']:22} {value}{row['reading']}")


def _calibration(by_part: dict[str, pd.DataFrame], classes: tuple[str, ...]) -> pd.DataFrame:
    rows = []
    for part, of in by_part.items():
        for state, prefix in (("as trained", "p_"), ("calibrated", "c_")):
            found = score(*arrays(of, classes, prefix), np.ones((1, len(of))), classes)
            rows.append({"part": part, "probabilities": state, "brier": found["brier"][0], "ece": found["ece"][0]})
    return pd.DataFrame(rows)


def _points(by_part: dict[str, pd.DataFrame], positive: str, targets: list[float]) -> pd.DataFrame:
    rows, valid = [], by_part["valid"]
    is_positive = (valid["label"] == positive).to_numpy()
    for target in targets if is_positive.any() else []:
        threshold = choose_threshold(is_positive, valid[f"c_{positive}"].to_numpy(), target)
        for part, of in by_part.items():
            found = operate((of["label"] == positive).to_numpy(), of[f"c_{positive}"].to_numpy(), threshold,
                            of["group"].to_numpy(), of["label"].to_numpy())
            rows.append(found.reset_index(names="score").assign(target=target, threshold=threshold, part=part))
    columns = ["target", "threshold", "part", "score", "estimate", "low", "high"]
    return pd.concat(rows, ignore_index=True)[columns] if rows else pd.DataFrame(columns=columns)


def _referral(by_part: dict[str, pd.DataFrame], classes: tuple[str, ...]) -> pd.DataFrame:
    valid, test = (arrays(by_part[part], classes, "c_") for part in PARTS)
    return refer(valid, test, by_part["test"]["group"].to_numpy(), by_part["test"]["label"].to_numpy())
