"""The pictures of an evaluation, drawn from its tables: readable in gray print and by color-blind people."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageOps

from busfast.figures import GRAY, STYLES, add_legend, new_figure, plain, save_figure, wrapped
from busfast.files import atomic
from busfast.results.bootstrap import draw_weights
from busfast.results.evaluation import Evaluation
from busfast.results.predictions import arrays
from busfast.results.printing import format_interval
from busfast.results.scores import BINS, confusion
from busfast.text import counted

GRID = np.linspace(0, 1, 101)
MIN_BIN = 10  # images of a bin that is drawn
CHARACTERS = 30  # of the classes' names, below a confusion matrix
BAND = 200  # bootstrap replicates of a curve's band


def draw_all(found: Evaluation, folder: Path) -> dict[str, str]:
    """Draws every picture of an evaluation into a folder (that of the centers if there are several), and results.png,
    a sheet of the first six of `SHEET`; returns the alternative text of each file but the sheet."""
    texts = {}
    for name, draw in PICTURES.items():
        if name == "centers" and "center" not in set(found.metrics["by"][found.metrics["part"] == found.tested]):
            (folder / f"{name}.png").unlink(missing_ok=True)  # an older busfast drew it
            continue
        figure, texts[f"{name}.png"] = draw(found)
        save_figure(figure, folder / f"{name}.png")
    make_sheet([folder / f"{name}.png" for name in SHEET if f"{name}.png" in texts][:6], folder / "results.png")
    return texts


def make_sheet(files: list[Path], path: Path) -> None:
    """Puts six pictures on one sheet, in two rows, each as large as its cell allows."""
    width, height = CELL[0] + GAP, CELL[1] + GAP
    sheet = Image.new("RGB", (3 * width, 2 * height), "white")
    for place, file in enumerate(files):
        with Image.open(file) as picture:
            sheet.paste(ImageOps.pad(picture.convert("RGB"), CELL, color="white"),
                        (place % 3 * width + GAP // 2, place // 3 * height + GAP // 2))
    with atomic(path, "wb") as target:
        sheet.save(target, "PNG")


def _band(found: Evaluation, curve: Callable) -> tuple[np.ndarray, np.ndarray]:
    """The middle 95% of a curve's heights over GRID, by a bootstrap over groups."""
    test = found.test
    heights = curve(np.concatenate(list(draw_weights(test["group"].to_numpy(), test["label"].to_numpy(), BAND))))
    return np.quantile(heights, 0.025, axis=0), np.quantile(heights, 0.975, axis=0)


def _write(axes: Axes, text: str, height: float = 0.5) -> None:
    """Writes a sentence into the middle of axes, in the place of a curve."""
    axes.text(0.5, height, wrapped(text, 5), ha="center", va="bottom", transform=axes.transAxes, color=GRAY,
              backgroundcolor="white")


def _probability(found: Evaluation) -> str:
    return f"{'' if found.temperature is None else 'calibrated '}probability of {found.positive}"


def _needs_both(found: Evaluation) -> str:
    return f"not defined: this needs images of {found.positive} and of other classes"


def _curves(found: Evaluation, curve: Callable, title: str, axis_labels: tuple[str, str], score: str):
    test, classes = found.test, found.config.classes
    labels, probabilities = arrays(test, classes)
    figure, (axes,) = new_figure(title, f"{found.run.name}, {found.where}; bands: 95%, patients drawn again",
                                 size=(5.8, 5 + 0.2 * len(classes)))
    texts = []
    for index, name in enumerate(classes):
        positive, style = labels == index, STYLES[index % len(STYLES)]
        if not 0 < positive.sum() < len(positive):
            continue
        class_curve = partial(curve, positive, probabilities[:, index])
        texts.append(f"{name}: {score.upper()} {format_interval(found.pick(f'{score}_{name}'))}")
        axes.plot(GRID, class_curve(np.ones((1, len(test))))[0], label=texts[-1], color=style["color"],
                  linestyle=style["linestyle"])
        axes.fill_between(GRID, *_band(found, class_curve), color=style["color"], alpha=0.15, linewidth=0)
    axes.set(xlabel=axis_labels[0], ylabel=axis_labels[1], xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    if texts:
        add_legend(axes, "below", 1)
    else:
        _write(axes, f"not defined: all images of the {found.where} are of one class")
    return figure, axes, f"{title}, {found.where}: {', '.join(texts) or 'not defined'}."


def _hits_and_calls(positive: np.ndarray, values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts what is called positive at each threshold, in all draws at once: scikit-learn takes one at a time.

    Args:
        positive: (n,), whether an image is of the class.
        values: (n,), the class's probability.
        weights: (b, n), how often each image counts.

    Returns:
        (b, m + 1) each, for none and then from the highest of the m different values down: the images of the class that
        are called positive, and all images that are.
    """
    order = np.argsort(-values, kind="stable")
    last = np.append(True, np.append(np.diff(values[order]) != 0, True))  # of equal values
    counts = np.insert(weights[:, order], 0, 0, axis=1)
    return np.cumsum(counts * np.append(False, positive[order]), axis=1)[:, last], np.cumsum(counts, axis=1)[:, last]


def _heights(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.array([np.interp(GRID, *curve) for curve in zip(x, y, strict=True)])


def roc_heights(positive: np.ndarray, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sensitivity over GRID of 1 - specificity, (b, 101), for the arguments of `_hits_and_calls`. NaN in a draw without
    images of the class, or of others."""
    hits, calls = _hits_and_calls(positive, values, weights)
    alarms = calls - hits
    with np.errstate(invalid="ignore"):
        return _heights(alarms / alarms[:, -1:], hits / hits[:, -1:])


def pr_heights(positive: np.ndarray, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Precision over GRID of recall, (b, 101), for the arguments of `_hits_and_calls`."""
    hits, calls = _hits_and_calls(positive, values, weights)
    recall = np.divide(hits, hits[:, -1:], out=(calls > 0).astype(float), where=hits[:, -1:] > 0)
    return _heights(recall, np.divide(hits, calls, out=np.ones_like(hits), where=calls > 0))


def draw_roc(found: Evaluation) -> tuple[Figure, str]:
    """ROC curves, one class against the rest."""
    figure, axes, text = _curves(found, roc_heights, "ROC of each class against the rest",
                                 ("1 - specificity", "sensitivity"), "auc")
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, zorder=0)
    return figure, text


def draw_pr(found: Evaluation) -> tuple[Figure, str]:
    """Precision against recall, one class against the rest."""
    figure, _, text = _curves(found, pr_heights, "Precision and recall of each class",
                              ("recall (sensitivity)", "precision (PPV)"), "ap")
    return figure, text


def draw_confusion(found: Evaluation) -> tuple[Figure, str]:
    """Confusion matrices of each part: counts, shaded by the share of the row."""
    classes, parts = found.config.classes, found.parts
    upright = sum(map(len, classes)) > CHARACTERS
    more = 0.08 * max(map(len, classes)) if upright else 0  # inches
    side = max(3.2, 0.5 * len(classes))  # of each matrix
    size = ((side + 0.4) * len(parts) + more, side + 1.3 + 1.1 * more)
    figure, axes = new_figure("Confusion matrices", found.run.name, size=size, grid=None, titles=[
        "validation part of the run" if part == "valid" else found.where for part in parts])
    for one, part in zip(axes, parts, strict=True):
        labels, probabilities = arrays(found.part(part), classes)
        counts = confusion(labels, probabilities.argmax(1), np.ones((1, len(labels))), len(classes))[0].astype(int)
        share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        one.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.ndindex(counts.shape):
            one.text(column, row, f"{counts[row, column]}\n{share[row, column]:.0%}", ha="center", va="center",
                     color="white" if share[row, column] > 0.6 else "black")
        one.set(xticks=range(len(classes)), xticklabels=classes, yticks=range(len(classes)), yticklabels=classes,
                xlabel="predicted class", ylabel="true class" if part == parts[0] else "")
        one.tick_params("x", rotation=90 if upright else 0)
        one.tick_params("y", labelleft=part == parts[0])  # the same classes
        one.set_anchor("N")  # room that is left is below
        one.spines[:].set_visible(False)
    right = [f"{name}: {counts[index, index]} of {counts[index].sum()} right" for index, name in enumerate(classes)]
    both = "validation part of the run and the " if len(parts) > 1 else ""
    return figure, f"Confusion matrices of the {both}{found.where}. {found.tested.title()}: {', '.join(right)}."


def draw_reliability(found: Evaluation) -> tuple[Figure, str]:
    """How often the model is right against its confidence, before and after calibration, with the bins' counts."""
    temperature = "" if found.temperature is None else f"temperature {found.temperature:.2f}; "
    figure, (axes,) = new_figure("Reliability", f"{found.run.name}, {found.where}; {temperature}bins of {MIN_BIN} "
                                 "images or more; above: how many", size=(6.4, 5))
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, zorder=0)
    texts, table = [], found.calibration.set_index(["part", "score", "probabilities"])["estimate"]
    for number, ((state, prefix), style) in enumerate(zip(found.states, STYLES, strict=False)):
        labels, probabilities = arrays(found.test, found.config.classes, prefix)
        confidence = probabilities.max(1)
        bins = pd.DataFrame({"confidence": confidence, "right": probabilities.argmax(1) == labels}).groupby(
            np.minimum((confidence * BINS).astype(int), BINS - 1))
        counts = bins.size()[bins.size() >= MIN_BIN]
        means, error = bins.mean().loc[counts.index], table[found.tested, "ece", state]
        hidden = f"\n{len(labels) - counts.sum()} of {len(labels)} images are in smaller bins: not drawn"
        axes.plot(means["confidence"], means["right"], label=f"{state} (expected calibration error {error:.3f})"
                  + hidden * bool(counts.sum() < len(labels)), **style)
        for x, count in zip(means["confidence"], counts, strict=True):  # above the curves, a row for each
            axes.text(x, 1.1 - 0.05 * number, str(count), fontsize=8, color=style["color"], ha="center", va="center")
        texts.append(f"{state} {error:.3f}, images of the bins {', '.join(map(str, counts)) or 'too few to draw'}")
    if not axes.texts:
        _write(axes, f"No bin has {MIN_BIN} images: the {found.where} is too small for this picture.", 0.8)
    axes.set(xlabel="probability of the predicted class", ylabel="share of correct predictions",
             xlim=(min(0.3, 1 / len(found.config.classes)), 1.01), ylim=(-0.01, 1.13), yticks=np.linspace(0, 1, 6))
    add_legend(axes, "below", 1)
    return figure, f"Reliability, {found.where}; expected calibration error: {'; '.join(texts)}."


def draw_centers(found: Evaluation) -> tuple[Figure, str]:
    """Macro AUC and the positive class's sensitivity of each center, with intervals."""
    scores = {"macro_auc": "macro AUC", f"sensitivity_{found.positive}": f"{found.positive} sensitivity"}
    table = found.metrics[(found.metrics["part"] == found.tested) & found.metrics["by"].isin(["all", "center"])]
    table = table.set_index(["by", "value"])
    centers = table.index.unique()
    figure, (axes,) = new_figure("Each center", f"{found.run.name}, {found.where}; 95% intervals by patients",
                                 grid="x")
    texts = []
    for number, ((score, label), style) in enumerate(zip(scores.items(), STYLES, strict=False)):
        rows = table[table["score"] == score].loc[centers]
        heights = np.arange(len(centers)) + 0.18 * (2 * number - 1)
        drawn = rows[["estimate", "low", "high"]].round(3)  # the same picture whether intervals were read or drawn
        gaps = np.nan_to_num([drawn["estimate"] - drawn["low"], drawn["high"] - drawn["estimate"]]).clip(0)
        axes.errorbar(drawn["estimate"], heights, xerr=gaps, label=label, color=style["color"], marker=style["marker"],
                      linestyle="none", capsize=3)
        shown = []
        for height, (by, value), estimate in zip(heights, centers, rows["estimate"], strict=True):
            right, count = found.shares.get((found.tested, by, value, score), (0, 0))
            of = f"{right} of {count}" if count else ""
            if np.isnan(estimate):
                axes.annotate("not defined", (0.01, height), fontsize=8, color=style["color"], va="center")
            else:  # inside the axes, beside the marker
                axes.annotate(of, (estimate, height), (-6 if estimate > 0.5 else 6, 4), textcoords="offset points",
                              fontsize=7, color=style["color"], ha="right" if estimate > 0.5 else "left")
            shown.append(f"{value or 'all'} " + ("not defined" if np.isnan(estimate) else f"{estimate:.2f}")
                         + f" ({of})" * bool(count))
        texts.append(f"{label}: {', '.join(shown)}")
    axes.set_yticks(range(len(centers)), [f"{plain(value) or 'all'} ({count} images)"
                                          for (_, value), count in zip(centers, rows["images"], strict=True)])
    axes.set(xlim=(-0.02, 1.02), xlabel="score")  # markers at 0 and 1 are whole
    axes.invert_yaxis()
    add_legend(axes, "below")
    return figure, f"Each center, {found.where}; {'; '.join(texts)}."


def draw_operating(found: Evaluation) -> tuple[Figure, str]:
    """Sensitivity and specificity of the positive class over every threshold, with the chosen ones."""
    test, positive = found.test, found.positive
    is_positive, values = (test["label"] == positive).to_numpy(), test[f"c_{positive}"].to_numpy()
    figure, (axes,) = new_figure(f"Operating points for {positive}",
                                 f"{found.run.name}, {found.where}"
                                 + "; thresholds chosen on validation" * bool(found.thresholds))
    defined = 0 < is_positive.sum() < len(test)
    called, curves = values[:, None] >= GRID, []
    for label, shares, style in (("sensitivity", called[is_positive], STYLES[0]),
                                 ("specificity", ~called[~is_positive], STYLES[1])):
        curves.append(shares.mean(0) if defined else np.full(len(GRID), np.nan))
        axes.plot(GRID, curves[-1], label=label, color=style["color"], linestyle=style["linestyle"])
    texts = []
    for (target, threshold), rows in found.points_of_test():
        axes.axvline(threshold, color="0.5", linewidth=1)
        side = 1 if threshold < 0.85 else -1
        near = np.array(curves)[:, abs(GRID - threshold - 0.06 * side) < 0.07].ravel()
        heights = np.linspace(0.04, 0.8, 20)
        farthest = abs(near - heights[:, None]).min(1).argmax()  # from both curves
        axes.annotate(f"for {target:.0%}", (threshold, heights[farthest]), (3 * side, 0), fontsize=8, color=GRAY,
                      textcoords="offset points", ha="left" if side > 0 else "right", va="center")
        rates = found.show_point(threshold, found.tested, rows)
        texts.append(f"threshold {threshold:.3f}: sensitivity {rates['sensitivity']}, specificity "
                     f"{rates['specificity']}")
    axes.set(xlabel=f"{_probability(found)} from which it is predicted", ylabel="sensitivity, specificity",
             xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    if defined:
        add_legend(axes)
    else:
        _write(axes, _needs_both(found))
    shown = "; ".join(texts) or "no threshold was chosen"
    return figure, f"Sensitivity and specificity for {positive} against the threshold; {shown}."


def draw_decision(found: Evaluation) -> tuple[Figure, str]:
    """Net benefit of calling an image positive from a threshold on, against all images and none."""
    curve, title = found.decision_curve, f"Decision curve for {found.positive}"
    figure, (axes,) = new_figure(title, f"{found.run.name}, {found.where}; band: 95%, patients drawn again")
    axes.set(xlabel=f"{_probability(found)} from which one acts", ylabel="net benefit",
             xlim=(0, 1))
    if curve.empty:
        _write(axes, _needs_both(found))
        return figure, f"{title}, {found.where}: not defined."
    for (name, label), style in zip({"model": "model", "treat_all": "act on all", "treat_none": "act on none"}.items(),
                                    STYLES, strict=False):
        axes.plot(curve["threshold"], curve[name], label=label, color=style["color"], linestyle=style["linestyle"])
    axes.fill_between(curve["threshold"], curve["low"], curve["high"], color=STYLES[0]["color"], alpha=0.15,
                      linewidth=0)
    top = curve[["model", "high"]].max(axis=None)
    axes.set(ylim=(max(-top, min(-top / 4, 1.1 * curve["model"].min())), 1.05 * top))  # the others fall without an end
    add_legend(axes, "upper right")
    others = curve[["treat_all", "treat_none"]].max(axis=1)
    above, clearly = ((curve[name] > others).sum() for name in ("model", "low"))
    return figure, (f"{title}, {found.where}: the model is above acting on all and on none at {above} of {len(curve)} "
                    f"thresholds; at {clearly} of them its whole band is, too.")


PICTURES = {"roc": draw_roc, "pr": draw_pr, "confusion": draw_confusion, "reliability": draw_reliability,
            "centers": draw_centers, "operating_points": draw_operating, "decision_curve": draw_decision}
SHEET = "roc", "pr", "confusion", "reliability", "operating_points", "centers", "decision_curve"
CELL, GAP = (960, 660), 40  # pixels


def draw_tests(table: pd.DataFrame, path: Path) -> None:
    """Draws the columns test_macro_auc, test_low and test_high of compare.csv, for the data set with the most runs:
    values of others are not to be compared with them."""
    data = table["data"].value_counts().index[0]
    table, other = table[table["data"] == data], int((table["data"] != data).sum())
    figure, (axes,) = new_figure("Macro AUC of each run", "test parts; 95% intervals, by patients"
                                 + f"; {counted(other, 'run')} of other data not shown" * bool(other), grid="x")
    value = table["test_macro_auc"].astype(float)
    gaps = [(value - table["test_low"].astype(float)).fillna(0), (table["test_high"].astype(float) - value).fillna(0)]
    axes.errorbar(value, range(len(table)), xerr=gaps, color=STYLES[0]["color"], marker="o", linestyle="none",
                  capsize=3)
    axes.set_yticks(range(len(table)), table["run"])
    axes.set(xlabel=f"macro AUC\n{data}", xlim=(min(0.5, (value - gaps[0]).min() - 0.02), 1.01),
             ylim=(len(table) - 0.5, -0.5))
    save_figure(figure, path)
