"""The pictures of an evaluation, drawn from its tables: readable in grey print and by color-blind people."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from busfast.figures import GRAY, STYLES, add_legend, new_figure, plain, save_figure
from busfast.results.bootstrap import draw_weights
from busfast.results.evaluation import Evaluation, format_interval
from busfast.results.predictions import PARTS, arrays
from busfast.results.scores import BINS, confusion

GRID = np.linspace(0, 1, 101)
LEAST = 10  # images of a bin that is drawn
BAND = 200  # bootstrap replicates of a curve's band


def draw_all(found: Evaluation, folder: Path) -> dict[str, str]:
    """Draws every picture of an evaluation.

    Args:
        found: the evaluation.
        folder: where they are written.

    Returns:
        File name -> what it shows, for those who cannot see it.
    """
    said = {}
    for name, draw in PICTURES.items():
        figure, text = draw(found)
        save_figure(figure, folder / f"{name}.png")
        said[f"{name}.png"] = text
    return said


def _band(found: Evaluation, curve: Callable) -> tuple[np.ndarray, np.ndarray]:
    """The middle 95% of a curve's heights over GRID, drawing groups again."""
    test = found.test
    weights = np.concatenate(list(draw_weights(test["group"].to_numpy(), test["label"].to_numpy(), BAND)))
    heights = np.array([curve(row) for row in weights])
    return np.quantile(heights, 0.025, axis=0), np.quantile(heights, 0.975, axis=0)


def _curves(found: Evaluation, curve: Callable, title: str, labels: tuple[str, str], score: str):
    test, classes = found.test, found.config.classes
    right, probabilities = arrays(test, classes)
    figure, (axes,) = new_figure(title, f"{found.run.name}, test part; bands: 95%, patients drawn again")
    said = []
    for index, name in enumerate(classes):
        positive = right == index
        if not 0 < positive.sum() < len(positive):
            continue
        style = STYLES[index % len(STYLES)]
        of = {"positive": positive, "values": probabilities[:, index]}
        value = format_interval(found.pick(f"{score}_{name}"))
        axes.plot(GRID, curve(np.ones(len(test)), **of), label=f"{name} {value}", color=style["color"],
                  linestyle=style["linestyle"])
        low, high = _band(found, lambda weights, of=of: curve(weights, **of))
        axes.fill_between(GRID, low, high, color=style["color"], alpha=0.15, linewidth=0)
        said.append(f"{name} {value}")
    axes.set(xlabel=labels[0], ylabel=labels[1], xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    if said:
        add_legend(axes, "lower right" if score == "auc" else "lower left")
    return figure, axes, f"{title}, test part: {', '.join(said) or 'not defined'}."


def draw_roc(found: Evaluation) -> tuple[Figure, str]:
    """ROC curves, one class against the rest."""
    def curve(weights, positive, values):
        alarms, hits, _ = roc_curve(positive, values, sample_weight=weights)
        return np.interp(GRID, alarms, hits)

    figure, axes, text = _curves(found, curve, "ROC of each class against the rest",
                                 ("1 - specificity", "sensitivity"), "auc")
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, zorder=0)
    return figure, text


def draw_pr(found: Evaluation) -> tuple[Figure, str]:
    """Precision against recall, one class against the rest."""
    def curve(weights, positive, values):
        precision, recall, _ = precision_recall_curve(positive, values, sample_weight=weights)
        return np.interp(GRID, recall[::-1], precision[::-1])

    figure, _, text = _curves(found, curve, "Precision and recall of each class",
                              ("recall (sensitivity)", "precision (PPV)"), "ap")
    return figure, text


def draw_confusion(found: Evaluation) -> tuple[Figure, str]:
    """Confusion matrices of both parts: counts, shaded by the share of the row."""
    classes = found.config.classes
    figure, axes = new_figure("Confusion matrices", size=(8.4, 4.4), columns=2, grid=None)
    for one, part in zip(axes, PARTS, strict=True):
        of = found.predictions[found.predictions["part"] == part]
        right, probabilities = arrays(of, classes)
        counts = confusion(right, probabilities.argmax(1), np.ones((1, len(of))), len(classes))[0].astype(int)
        share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        one.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.ndindex(counts.shape):
            one.text(column, row, f"{counts[row, column]}\n{share[row, column]:.0%}", ha="center", va="center",
                     color="white" if share[row, column] > 0.6 else "black")
        one.set(xticks=range(len(classes)), xticklabels=classes, yticks=range(len(classes)), yticklabels=classes,
                xlabel="predicted", ylabel="label" if part == "valid" else "")
        one.set_title(f"{found.run.name}, {'validation' if part == 'valid' else part} part", fontsize=8, color=GRAY)
        one.spines[:].set_visible(False)
    right = [f"{name}: {counts[index, index]} of {counts[index].sum()} right" for index, name in enumerate(classes)]
    return figure, "Confusion matrices of the validation and the test part. Test: " + ", ".join(right) + "."


def draw_reliability(found: Evaluation) -> tuple[Figure, str]:
    """How often the model is right against how sure it is, before and after calibration."""
    test = found.test
    figure, (axes,) = new_figure("Reliability", f"{found.run.name}, test part; temperature {found.temperature:.2f}; "
                                 f"bins of {LEAST} images or more")
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, zorder=0)
    said = []
    for (state, prefix), style in zip((("as trained", "p_"), ("calibrated", "c_")), STYLES, strict=False):
        right, probabilities = arrays(test, found.config.classes, prefix)
        sure, hit = probabilities.max(1), probabilities.argmax(1) == right
        bins = np.minimum((sure * BINS).astype(int), BINS - 1)
        means = pd.DataFrame({"sure": sure, "hit": hit}).groupby(bins).filter(lambda of: len(of) >= LEAST)
        means = means.groupby(bins[means.index]).mean()
        error = found.calibration.query("part == 'test' and probabilities == @state")["ece"].iloc[0]
        axes.plot(means["sure"], means["hit"], label=f"{state} (expected calibration error {error:.3f})", **style)
        said.append(f"{state} {error:.3f}")
    axes.set(xlabel="probability of the predicted class", ylabel="share that is right", xlim=(0.3, 1.01),
             ylim=(-0.01, 1.01))
    add_legend(axes)
    return figure, f"Reliability, test part; expected calibration error: {', '.join(said)}."


def draw_centers(found: Evaluation) -> tuple[Figure, str]:
    """Macro AUC and the positive class's sensitivity of each center, with intervals."""
    scores = {"macro_auc": "macro AUC", f"sensitivity_{found.positive}": f"{found.positive} sensitivity"}
    of = found.metrics[(found.metrics["part"] == "test") & found.metrics["by"].isin(["all", "center"])]
    places = list(dict.fromkeys(zip(of["by"], of["value"], strict=True)))
    figure, (axes,) = new_figure("Each center", f"{found.run.name}, test part; 95% intervals, patients drawn again",
                                 grid="x")
    said = []
    for number, ((score, label), style) in enumerate(zip(scores.items(), STYLES, strict=False)):
        rows = of[of["score"] == score].set_index(["by", "value"]).loc[places]
        heights = np.arange(len(places)) + 0.18 * (2 * number - 1)
        shown = rows[["estimate", "low", "high"]].round(3)  # the same picture whether intervals were read or drawn
        gaps = np.nan_to_num([shown["estimate"] - shown["low"], shown["high"] - shown["estimate"]]).clip(0)
        axes.errorbar(shown["estimate"], heights, xerr=gaps, label=label, color=style["color"], marker=style["marker"],
                      linestyle="none", capsize=3)
        for height, value in zip(heights, rows["estimate"], strict=True):
            if np.isnan(value):
                axes.annotate("not defined", (0.01, height), fontsize=8, color=style["color"], va="center")
        said.append(f"{label}: " + ", ".join(
            f"{value or 'all'} " + ("not defined" if np.isnan(row.estimate) else f"{row.estimate:.2f}")
            for (_, value), row in zip(places, rows.itertuples(), strict=True)))
    counts = of[of["score"] == "macro_auc"].set_index(["by", "value"]).loc[places, "images"]
    axes.set_yticks(range(len(places)), [f"{plain(value) or 'all'} ({count} images)"
                                         for (_, value), count in zip(places, counts, strict=True)])
    axes.set(xlim=(0, 1.01), xlabel="score")
    axes.invert_yaxis()
    add_legend(axes, "below")
    return figure, "Each center, test part. " + ". ".join(said) + "."


def draw_operating(found: Evaluation) -> tuple[Figure, str]:
    """Sensitivity and specificity of the positive class over every threshold, with the chosen ones."""
    test, positive = found.test, found.positive
    is_positive, values = (test["label"] == positive).to_numpy(), test[f"c_{positive}"].to_numpy()
    figure, (axes,) = new_figure(f"Operating points for {positive}",
                                 f"{found.run.name}, test part; thresholds chosen on validation")
    for (label, rate), style in zip((("sensitivity", lambda cut: (values[is_positive] >= cut).mean()),
                                     ("specificity", lambda cut: (values[~is_positive] < cut).mean())), STYLES,
                                    strict=False):
        heights = [rate(cut) for cut in GRID] if 0 < is_positive.sum() < len(test) else np.full(len(GRID), np.nan)
        axes.plot(GRID, heights, label=label, color=style["color"], linestyle=style["linestyle"])
    said = []
    for (target, threshold), rows in found.points.query("part == 'test'").groupby(["target", "threshold"]):
        axes.axvline(threshold, color="0.5", linewidth=1)
        axes.annotate(f"for {target:.0%}", (threshold, 0.02), rotation=90, fontsize=8, color=GRAY, ha="right")
        reached = {row["score"]: format_interval(row) for _, row in rows.iterrows()}
        said.append(f"threshold {threshold:.3f}: sensitivity {reached['sensitivity']}, specificity "
                    f"{reached['specificity']}")
    axes.set(xlabel=f"calibrated probability of {positive} from which it is called", ylabel="share of the test part",
             xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    add_legend(axes)
    return figure, f"Sensitivity and specificity for {positive} against the threshold. " + "; ".join(said) + "."


PICTURES = {"roc": draw_roc, "pr": draw_pr, "confusion": draw_confusion, "reliability": draw_reliability,
            "centers": draw_centers, "operating_points": draw_operating}


def draw_tests(table: pd.DataFrame, path: Path) -> None:
    """Draws the test macro AUC of several runs with their intervals.

    Args:
        table: columns run, test_macro_auc, test_low, test_high.
        path: the picture.
    """
    figure, (axes,) = new_figure("Macro AUC of each run", "test parts; 95% intervals, patients drawn again", grid="x")
    value = table["test_macro_auc"].astype(float)
    gaps = [(value - table["test_low"].astype(float)).fillna(0), (table["test_high"].astype(float) - value).fillna(0)]
    axes.errorbar(value, range(len(table)), xerr=gaps, color=STYLES[0]["color"], marker="o", linestyle="none",
                  capsize=3)
    axes.set_yticks(range(len(table)), table["run"])
    axes.set(xlabel="macro AUC", xlim=(min(0.5, value.min() - 0.05), 1.01), ylim=(len(table) - 0.5, -0.5))
    save_figure(figure, path)
