"""A table of predictions -> a few lines on screen: the answer for one image, counts for several."""

import csv
from collections import Counter
from pathlib import Path

from busfast.inference.predictor import Predictor
from busfast.text import counted

SHOWN = 3  # most probable classes of one image
DIFFER = ("the decision differs from the most probable class, as it asks only whether the probability of {name} "
          "reaches its threshold")


def summarize_predictions(file: Path, predictor: Predictor) -> list[str]:
    """Returns what a file that `write_predictions` wrote says: of one image class, probabilities and decision; of
    several how many images got each class and each decision; how many are unlike the training images, and which
    is the first that could not be read."""
    with open(file, encoding="utf-8", errors="surrogateescape", newline="") as opened:
        if file.stat().st_size < 1_000_000 and len(rows := list(csv.DictReader(opened))) == 1:
            return _describe(rows[0], predictor) if rows[0]["status"] == "ok" else []
        opened.seek(0)
        predicted, decisions, differ, unlike, unread = Counter(), Counter(), Counter(), 0, ""
        for row in csv.DictReader(opened):
            predicted[row["predicted"]] += row["status"] == "ok"
            decisions[row["decision"]] += 1
            differ[_why_differ(row, predictor)] += 1
            unlike += float(row["outlier"] or 0) > 1
            if row["status"] != "ok":
                unread = unread or f"  unreadable, the first of them: {row['image']}: {row['reason']}"
    place = {name: place for place, name in enumerate(predictor.classes)}  # sets of labels, and "not CLASS", come last
    lines = [f"  {title}: " + ", ".join(f"{counts[name]} {name}" for name in sorted(counts, key=lambda name: (
        place.get(name, len(place)), -counts[name])) if name and counts[name]) + source
             for title, counts, source in (("predicted", predicted, ""), ("decision", decisions, _threshold(predictor)))
             if any(counts)]
    lines += [f"  of {counted(count, 'image')}, {why}" for why, count in differ.items() if why]
    if predictor.outlier is not None:
        lines.append(f"  unlike the training images (column outlier above 1): {unlike} of "
                     f"{counted(predicted.total(), 'image')}")
    return lines + ([unread] if unread else [])


def _why_differ(row: dict[str, str], predictor: Predictor) -> str:
    """Returns why the decision about an image and its predicted class contradict each other; "" if they do not."""
    if not row["decision"]:
        return ""
    name = predictor.operating_points[0]["class"]
    return DIFFER.format(name=name) if (row["predicted"] == name) != (row["decision"] == name) else ""


def _threshold(predictor: Predictor) -> str:
    """Returns the threshold that decides, and where it comes from; "" if there is none, or one for each label."""
    if predictor.label_delim or not predictor.operating_points:
        return ""
    point = predictor.operating_points[0]
    return (f" (threshold for {point['class']}: {point['threshold']:.3f}, chosen on validation for a sensitivity of "
            f"{point['target']:g})")


def _describe(row: dict[str, str], predictor: Predictor) -> list[str]:
    shares = {name: float(row[f"p_{name}"]) for name in predictor.classes}
    shown = sorted(shares, key=lambda name: -shares[name])[:SHOWN]
    lines = [f"  {row['image']}: {row['predicted'] or 'no label'}; probabilities: "
             + ", ".join(f"{name} {shares[name]:.3f}" for name in shown) + (", ..." if len(shares) > SHOWN else "")]
    if row["decision"]:
        lines.append(f"  decision: {row['decision']}{_threshold(predictor)}")
        lines += [f"  {why}"] if (why := _why_differ(row, predictor)) else []
    if float(row["outlier"] or 0) > 1:
        lines.append(f"  but it is unlike the training images (outlier {row['outlier']}): do not rely on this")
    return lines
