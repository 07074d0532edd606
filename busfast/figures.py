"""One frame for every figure: size, title, caption, spines, grid, legend, colors, and how it is saved."""

import warnings
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from busfast.files import atomic

# Okabe and Ito's colors, distinguishable by color-blind readers; markers and dashes do the same in gray print.
STYLES = [{"color": color, "marker": marker, "linestyle": line} for color, marker, line in (
    ("#0072B2", "o", "-"), ("#D55E00", "s", "--"), ("#009E73", "^", "-."), ("#CC79A7", "D", ":"),
    ("#E69F00", "v", "-"), ("#56B4E9", "P", "--"), ("#000000", "X", "-."))]
GRAY, GRID_GRAY = "0.35", "0.92"


def plain(text: str) -> str:
    """Escapes dollar signs, between which matplotlib would typeset a formula."""
    return text.replace("$", r"\$")


def new_figure(title: str, caption: str = "", *, size: tuple[float, float] = (6.4, 4.4), columns: int = 1,
               grid: str | None = "both") -> tuple[Figure, list[Axes]]:
    """Makes a figure with one row of axes; without pyplot, so that it needs no display and leaves no state behind.

    Args:
        title: of the figure.
        caption: small print under the title (which run, which data).
        size: width and height, in inches.
        columns: number of axes.
        grid: "both", "x", "y" or None.

    Returns:
        The figure and its axes.
    """
    figure = Figure(figsize=size, layout="constrained")
    axes = list(figure.subplots(1, columns, squeeze=False)[0])
    figure.suptitle(plain(title), fontsize=12)
    axes[0].set_title(plain(caption), fontsize=8, color=GRAY)
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.set_axisbelow(True)
        if grid:
            one.grid(axis=grid, color=GRID_GRAY)
    return figure, axes


def image_grid(rows: int, columns: int, cell: tuple[float, float], title: str = "") -> tuple[Figure, np.ndarray]:
    """Makes a figure for images: axes without frame or ticks.

    Args:
        rows, columns: of axes.
        cell: width and height of each, in inches.
        title: small print above them.

    Returns:
        The figure and its axes, (rows, columns).
    """
    figure = Figure(figsize=(cell[0] * columns, cell[1] * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for one in axes.flat:
        one.axis("off")
    if title:
        figure.suptitle(plain(title), fontsize=9)
    return figure, axes


def add_legend(axes: Axes, loc: str = "best") -> None:
    """Adds a legend without a frame, over white that lets the lines below it through a little.

    Args:
        axes: of `new_figure`.
        loc: as matplotlib's; "below": under the axes, where it can cover nothing.
    """
    if loc == "below":
        axes.figure.legend(loc="outside lower center", ncols=4, frameon=False)
    else:
        axes.legend(loc=loc, framealpha=0.8, edgecolor="none")


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG; the file appears complete or not at all."""
    with atomic(path, "wb") as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a folder's name may be of any script
        figure.savefig(file, format="png", dpi=150)
