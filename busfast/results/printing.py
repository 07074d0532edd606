"""Scores and explanations of a run, for the screen."""

from typing import Any

import numpy as np
import pandas as pd

from busfast.results.predictions import EXTERNAL, read_history
from busfast.results.predictive_values import PREVALENCES
from busfast.results.scores import present
from busfast.text import MANY, counted, times

LIKENESS, BLANK = "likeness to an untrained model's maps", "maps without color"  # measures of localisation.csv
PIXELS = "mean difference, of 255"  # score of the probe of preprocessing
NO_INTERVAL = {"ece", PIXELS, LIKENESS}  # of any set


def print_evaluation(found: Any) -> None:
    """Prints an evaluation in a dozen lines."""
    print_opening(found)
    classes = found.config.classes if len(found.config.classes) <= MANY else (found.positive,)
    shown = present(["macro_auc", "balanced_accuracy", *(f"sensitivity_{name}" for name in classes), "ece"])
    for part in found.parts:
        rows = [found.pick(name, part) for name in shown if found.has(name, part)]
        width = max(24, *(len(row["score"]) for row in rows))
        print(f"  {name_part(part)}, {counted(int(rows[0]['images']), 'image')} of "
              f"{counted(int(rows[0]['groups']), 'group')} (patients, duplicates), with 95% intervals:")
        for row in rows:
            name = "ece (calibration error)" if row["score"] == "ece" else row["score"]
            print(f"    {name:{width}} {format_interval(row)}")
    for (target, threshold), rows in found.points_of_test():
        rates = {row["score"]: format_interval(row) for _, row in rows.iterrows()}
        print(f"  {found.positive} if its probability is {threshold:.3f} or more (chosen on validation for a "
              f"sensitivity of {target:g}); on the {found.where}:\n    sensitivity {rates['sensitivity']}, specificity "
              f"{rates['specificity']}")
        for prevalence, pair in found.predictive_values_at(target) if found.prevalences != PREVALENCES else ():
            print(f"    where {100 * prevalence:.3g}% are {found.positive}: PPV {pair['ppv']}, NPV {pair['npv']}")
    for text in (*found.failures, *found.calibration_notes, *(found.external.changed if found.external else ())):
        print(f"  {text}")
    if found.record.get("leaks"):
        print(f"  warning: the split LEAKS ({found.record['leaks']} in two parts), so these scores are too good")
    print("  wrote predictions.csv, metrics.csv, calibration.csv, operating_points.csv, predictive_values.csv, "
          f"decision_curve.csv, referral.csv into {found.run.results}/")


def print_opening(found: Any) -> None:
    """Prints what an `Evaluation`, or one of several labels, is of."""
    scored = times(len(read_history(found.run)))
    what = f"EXTERNAL set, which has been scored {scored}; nothing was chosen or fitted on it" if found.external else \
        f"its test part has been scored {scored}"
    print(f"\n{found.run.name}: {what}"
          + (" (a PHANTOM: synthetic images, which say nothing about patients)" if found.record.get("phantom") else ""))
    for note in found.external.notes if found.external else ():
        print(f"  {note}")


def name_part(part: str) -> str:
    """Returns the name of a part for the screen."""
    return {EXTERNAL: "external set", "valid": "validation part"}.get(part, f"{part} part")


def format_interval(row: pd.Series) -> str:
    """Returns "0.912 (0.880 to 0.940)" of a row with estimate, low and high, "0.912 (too few patients)" or "not
    defined"; the row's score or measure tells whether it ever has an interval."""
    if np.isnan(row["estimate"]):
        return "not defined"
    if np.isnan(row["low"]):
        never = {row.get("score"), row.get("measure")} & NO_INTERVAL
        return f"{row['estimate']:.3f} ({'no interval' if never else 'too few patients'})"
    return f"{row['estimate']:.3f} ({row['low']:.3f} to {row['high']:.3f})"


def add_count(text: str, count: tuple[int, int] | None) -> str:
    """Returns the text of a share with what it is of; as it is where that is not known, or nothing."""
    return f"{text}, {count[0]} of {count[1]}" if count and count[1] else text


def print_explanation(name: str, maps: pd.DataFrame, probes: pd.DataFrame) -> None:
    """Prints localisation.csv and probes.csv of a run."""
    print(f"\n{name}: where it looks (Grad-CAM for the predicted class)")
    for _, row in maps[maps["measure"] != BLANK].iterrows():  # of which there is a sentence below
        value = f"{format_interval(row)}, {counted(int(row['images']), 'image')}" if row["images"] else ""
        print(f"  {row['measure']:38} {value}".rstrip())
    measures = set(maps["measure"])
    if "pointing" in measures:
        print("  pointing: the brightest point lies in the lesion; energy: share of the map inside it (by chance as "
              "large as area); iou: overlap of the brightest pixels with it; area: the lesion's share of the image")
    elif LIKENESS in measures:
        print("  there are no lesion masks: the maps are not measured against lesions")
    if LIKENESS in measures:
        print("  likeness near 1: the maps show the image, not what the model has learned")
    if why := explain_blank(maps):
        print(f"  {why}")
    print("shortcut probes (validation part; changes with 95% intervals by patients; the model has seen no "
          "covered images)")
    for _, row in probes.iterrows():
        chance = f", chance {row['chance']:.2f}" if row["chance"] else ""  # a difference of pixels has none
        score = f"{row['score']} {format_interval(row)}" if row["score"] != PIXELS else \
            f"mean difference {row['estimate']:.1f} of 255"
        value = f"{score}{chance}. " if row["images"] else ""
        print(f"  {row['probe']:22} {value}{row['verdict']}")


def explain_blank(maps: pd.DataFrame) -> str:
    """Returns the sentence of `describe_blank` on localisation.csv; "" if an older busfast wrote it."""
    rows = maps[maps["measure"] == BLANK]
    return "".join(describe_blank(round(row["estimate"] * row["images"]), int(row["images"]))
                   for _, row in rows.iterrows())


def describe_blank(blank: int, maps: int) -> str:
    """Returns how many maps are zero everywhere, and what that means; "" if none is."""
    verb = "has" if blank == 1 else "have"
    return (f"{blank} of {counted(maps, 'map')} {verb} no color: nothing in the image counted for the predicted class"
            if blank else "")
