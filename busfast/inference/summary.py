"""A table of predictions -> a few lines on screen: the answer for one image, counts for several."""

import csv
from collections import Counter
from pathlib import Path

from busfast.inference.predictor import Predictor

SHOWN = 3  # most probable classes of one image


def summarize_predictions(file: Path, predictor: Predictor) -> list[str]:
    """Returns what a file that `write_predictions` wrote says: of one image class, probabilities and decision; of
    several how many images got each class and each decision; how many are unlike the training images, and which
    is the first that could not be read."""
    with open(file, encoding="utf-8", errors="surrogateescape", newline="") as opened:
        if file.stat().st_size < 1_000_000 and len(rows := list(csv.DictReader(opened))) == 1:
            return _describe(rows[0], predictor) if rows[0]["status"] == "ok" else []
        opened.seek(0)
        predicted, decisions, unlike, unread = Counter(), Counter(), 0, ""
        for row in csv.DictReader(opened):
            predicted[row["predicted"]] += row["status"] == "ok"
            decisions[row["decision"]] += 1
            unlike += float(row["outlier"] or 0) > 1
            if row["status"] != "ok":
                unread = unread or f"  unreadable, the first of them: {row['image']}: {row['reason']}"
    lines = [f"  {title}: {', '.join(f'{count} {name}' for name, count in counts.most_common() if name and count)}"
             for title, counts in (("predicted", predicted), ("decision", decisions)) if any(counts)]
    lines += [f"  unlike the training images (outlier above 1): {unlike}"] if unlike else []
    return lines + ([unread] if unread else [])


def _describe(row: dict[str, str], predictor: Predictor) -> list[str]:
    shares = {name: float(row[f"p_{name}"]) for name in predictor.classes}
    shown = sorted(shares, key=lambda name: -shares[name])[:SHOWN]
    lines = [f"  {row['image']}: {row['predicted'] or 'no label'}; probabilities: "
             + ", ".join(f"{name} {shares[name]:.3f}" for name in shown) + (", ..." if len(shares) > SHOWN else "")]
    if row["decision"]:
        point = predictor.operating_points[0]
        lines.append(f"  decision: {row['decision']} (threshold for {point['class']}: {point['threshold']:.3f})")
    if float(row["outlier"] or 0) > 1:
        lines.append(f"  but it is unlike the training images (outlier {row['outlier']}): do not rely on this")
    return lines
