"""loss_curve.png, recall_curve.png and lr_curve.png, drawn from training_log.csv; and images of a batch."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from busfast.figures import GRAY, STYLES, add_legend, new_figure, plain, save_figure, wrapped

COLUMNS = 4  # images in a row


def draw_curves(folder: Path, caption: str) -> None:
    """Draws the three curves of a run into the folder of its log; `caption` is in small print under each title."""
    log = pd.read_csv(folder / "training_log.csv")
    recalls = [name for name in log if name.startswith("recall_")]
    save_figure(draw_losses(log, caption), folder / "loss_curve.png")
    figure, (axes,) = new_figure("Sensitivity for each class, validation", caption)
    _plot(axes, log, {name: name.removeprefix("recall_") for name in recalls}, "sensitivity")
    axes.set_ylim(-0.02, 1.02)
    save_figure(figure, folder / "recall_curve.png")
    figure, (axes,) = new_figure("Learning rate at the end of each epoch", caption)
    _plot(axes, log, {"lr": "learning rate"}, "learning rate")
    save_figure(figure, folder / "lr_curve.png")


def draw_losses(log: pd.DataFrame, caption: str) -> Figure:
    """Draws the two losses of a log beside each other: the training's, weighted by class or not cross-entropy at all,
    is not comparable with the validation's."""
    figure, (left, right) = new_figure("Loss, training and validation each on its own scale", caption, size=(7.6, 4.4),
                                       titles=("", ""))
    _plot(left, log, {"train_loss": ""}, "training loss, with class weights if any")
    _plot(right, log, {"val_loss": ""}, "validation loss, without class weights")
    if log["val_loss"].notna().any():
        best = log["val_loss"].idxmin()
        right.axvline(log["epoch"][best], color="0.6", linewidth=1, zorder=0)
        offset, side = (4, "left") if best < len(log) / 2 else (-4, "right")
        right.annotate(f"lowest: {log['val_loss'][best]:.3f}", (log["epoch"][best], 0.98),
                       xycoords=("data", "axes fraction"), xytext=(offset, 0), textcoords="offset points",
                       fontsize=8, color=GRAY, ha=side, va="top")
    return figure


def _plot(axes: Axes, log: pd.DataFrame, series: dict[str, str], label: str) -> None:
    """Plots columns of a log, with the names that a legend has for them, over the epochs."""
    for index, (name, title) in enumerate(series.items()):
        axes.plot(log["epoch"], log[name], label=title, markersize=4, **STYLES[index % len(STYLES)])
    axes.set(xlabel="epoch", ylabel=label)
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    if len(series) > 1:
        add_legend(axes)


def draw_batch(path: Path, pixels: Sequence[np.ndarray], labels: Sequence[str], title: str, caption: str) -> None:
    """Draws images, uint8 (height, width, 3), with their labels; on one axes, since an axes each takes long."""
    height, width = pixels[0].shape[:2]
    gap, rows = max(8, height // 6), -(-len(pixels) // COLUMNS)  # the label is in the gap above each image
    sheet = np.full((rows * (height + gap), COLUMNS * (width + gap), 3), 255, np.uint8)
    figure, (axes,) = new_figure(title, caption, size=(7.2, 0.7 + 6.8 * sheet.shape[0] / sheet.shape[1]), grid=None)
    axes.axis("off")
    for index, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        top, left = index // COLUMNS * (height + gap) + gap, index % COLUMNS * (width + gap) + gap // 2
        sheet[top:top + height, left:left + width] = image
        axes.text(left, top - gap / 8, plain(wrapped(label, 2.1)), fontsize=8, va="bottom", linespacing=1)
    axes.imshow(sheet)
    save_figure(figure, path)
