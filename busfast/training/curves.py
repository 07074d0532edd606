"""loss_curve.png, recall_curve.png and lr_curve.png, drawn from training_log.csv; and images of a batch."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from busfast.figures import GRAY, STYLES, add_legend, new_figure, plain, save_figure

COLUMNS = 4  # images in a row


def draw_curves(folder: Path, caption: str) -> None:
    """Draws the three curves of a run into the folder of its log; `caption` is in small print under each title."""
    log = pd.read_csv(folder / "training_log.csv")
    recalls = [name for name in log if name.startswith("recall_")]
    best = log["val_loss"].idxmin() if log["val_loss"].notna().any() else None
    _draw(folder / "loss_curve.png", log, {"train_loss": "training (weighted)", "val_loss": "validation (unweighted)"},
          "Loss", "cross-entropy", caption, best=best)
    _draw(folder / "recall_curve.png", log, {name: name.removeprefix("recall_") for name in recalls},
          "Recall of each class, validation", "recall", caption, limits=(-0.02, 1.02))
    _draw(folder / "lr_curve.png", log, {"lr": "learning rate"}, "Learning rate at the end of each epoch",
          "learning rate", caption)


def _draw(path: Path, log: pd.DataFrame, series: dict[str, str], title: str, axis: str, caption: str, *,
          limits=None, best=None) -> None:
    figure, (axes,) = new_figure(title, caption)
    for index, (name, label) in enumerate(series.items()):
        axes.plot(log["epoch"], log[name], label=label, markersize=4, **STYLES[index % len(STYLES)])
    if best is not None:
        axes.axvline(log["epoch"][best], color="0.6", linewidth=1, zorder=0)
        offset, side = (4, "left") if best < len(log) / 2 else (-4, "right")
        axes.annotate(f"lowest validation loss: {log['val_loss'][best]:.3f}", (log["epoch"][best], 0.98),
                      xycoords=("data", "axes fraction"), xytext=(offset, 0), textcoords="offset points",
                      fontsize=8, color=GRAY, ha=side, va="top")
    if limits:
        axes.set_ylim(*limits)
    axes.set(xlabel="epoch", ylabel=axis)
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    if len(series) > 1:
        add_legend(axes)
    save_figure(figure, path)


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
        axes.text(left, top - gap / 4, plain(label), fontsize=8)
    axes.imshow(sheet)
    save_figure(figure, path)
