"""One frame for every figure: size, title, caption, spines, grid, legend, colors, and how it is saved."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager, get_font
from matplotlib.text import Text
from matplotlib.transforms import blended_transform_factory

from busfast.files import atomic

# Okabe and Ito's colors, distinguishable by color-blind readers; markers and dashes do the same in gray print.
STYLES = [{"color": color, "marker": marker, "linestyle": line} for color, marker, line in (
    ("#0072B2", "o", "-"), ("#D55E00", "s", "--"), ("#009E73", "^", "-."), ("#CC79A7", "D", ":"),
    ("#E69F00", "v", "-"), ("#56B4E9", "P", "--"), ("#000000", "X", "-."))]
GRAY, GRID_GRAY = "0.35", "0.92"
LEFT = 0.015  # of the figure's width, where its title begins
DPI = 150
USUAL_FONT = "DejaVu Sans"  # matplotlib's own
_numbered: dict[str, str] = {}  # name that no font here can show -> what pictures show instead


def plain(text: str) -> str:
    """Escapes dollar signs, between which matplotlib would typeset a formula."""
    return text.replace("$", r"\$")


def wrapped(text: str, width: float) -> str:
    """Breaks a caption into lines of at most `width` inches: after semicolons, or else between words, evenly."""
    most, lines = int(13 * width), [""]  # characters an inch, in the captions' size
    for part in re.split("(?<=;) ", text):
        joined = f"{lines[-1]} {part}".lstrip()
        lines = [*lines[:-1], joined] if len(joined) <= most or not lines[-1] else [*lines, part]
    return "\n".join(_even(line, most) for line in lines)


def _even(line: str, most: int) -> str:
    """Breaks a line between words; no word is left alone in the last one if there is another way."""
    fill = partial(textwrap.wrap, line, break_on_hyphens=False)
    count, longest = len(fill(most)), max(map(len, line.split()), default=1)
    return "\n".join(next((lines for width in range(longest, most) if len(lines := fill(width)) <= count), fill(most)))


def new_figure(title: str, caption: str = "", *, size: tuple[float, float] = (6.4, 4.4),
               titles: Sequence[str] = ("",), grid: str | None = "both") -> tuple[Figure, list[Axes]]:
    """Makes a figure with one row of axes; without pyplot, so that it needs no display and leaves no state behind.

    Args:
        title: of the figure.
        caption: small print under the title (which run, which data); wrapped.
        size: width and height, in inches.
        titles: of the axes, below the caption; as many as there are axes.
        grid: "both", "x", "y" or None.

    Returns:
        The figure and its axes.
    """
    figure = Figure(figsize=size, layout="constrained")
    axes = list(figure.subplots(1, len(titles), squeeze=False)[0])
    figure.suptitle(plain(title), x=LEFT, ha="left", fontsize=12)
    # Both begin at the left of the figure, however wide the labels beside the axes are.
    for one, text in zip(axes, titles, strict=True):
        one.set_title(plain(text), loc="left", fontsize=9)
    caption = wrapped(caption, size[0]) + ("\n\n" if any(titles) else "")
    axes[0].set_title(plain(caption), x=LEFT, ha="left", fontsize=8, color=GRAY).set_transform(
        blended_transform_factory(figure.transFigure, axes[0].title.get_transform()))
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
    unticked = {"xticks": [], "yticks": []}  # ticks take time, even if they are not seen
    axes = figure.subplots(rows, columns, squeeze=False, subplot_kw=unticked)
    for one in axes.flat:
        one.axis("off")
    if title:
        figure.suptitle(plain(title), fontsize=9)
    return figure, axes


def add_legend(axes: Axes, loc: str = "best", columns: int = 4) -> None:
    """Adds a legend without a frame, over white that lets the lines below it through a little.

    Args:
        axes: of `new_figure`.
        loc: as matplotlib's; "below": under the axes, where it can cover nothing.
        columns: of a legend below the axes.
    """
    if loc == "below":
        axes.figure.legend(loc="outside lower center", ncols=columns, frameon=False)
    else:
        axes.legend(loc=loc, framealpha=0.8, edgecolor="none")


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG; the file appears complete or not at all. Names of any script are shown in fonts that have
    it, or by a number, which is printed."""
    _choose_fonts(figure)
    if layout := figure.get_layout_engine():  # once: matplotlib would draw the whole figure for it, and then again
        figure.set_dpi(DPI)
        layout.execute(figure)
        figure.set_layout_engine(None)
    with atomic(path, "wb") as file:
        figure.savefig(file, format="png", dpi=DPI)


def _choose_fonts(figure: Figure) -> None:
    """Gives texts whose characters the usual font lacks further fonts of this machine; names that none has, numbers."""
    axes = [axis for one in figure.axes for axis in (one.xaxis, one.yaxis)]
    ticks = {axis: [label.get_text() for label in axis.get_ticklabels()] for axis in axes}  # makes the labels, too
    texts = [text for text in figure.findobj(Text) if not text.get_text().isascii()]
    lacking = {char for text in texts for char in text.get_text() if char.isprintable()}
    fonts = {font.name: font.fname for font in fontManager.ttflist if font.style == "normal"
             and font.weight in (400, "normal", "regular") and not font.name.startswith("Last Resort")}  # of boxes only
    families = [USUAL_FONT]
    for name in sorted(fonts, key=lambda name: (name != USUAL_FONT, "Sans" not in name, name)):
        if found := {char for char in lacking if ord(char) in _characters(fonts[name])}:
            families += [name] * (name != USUAL_FONT)
            lacking -= found
        if not lacking:
            break
    if len(families) > 1:
        for text in texts:
            text.set_fontfamily(families)
    if lacking:
        _number_names(texts, ticks, re.escape("".join(sorted(lacking))))


def _number_names(texts: Sequence[Text], ticks: Mapping[Axis, Sequence[str]], lacking: str) -> None:
    """Puts numbers for names in characters that no font has, the same in all pictures, and prints which."""
    new = []

    def number(match: re.Match) -> str:
        if match.group() not in _numbered:
            _numbered[match.group()] = f"name {len(_numbered) + 1}"
            new.append(f"'{match.group()}' as {_numbered[match.group()]}")
        return _numbered[match.group()]

    name = re.compile(f"[{lacking}]([ {lacking}]*[{lacking}])?")
    for text in texts:
        text.set_text(name.sub(number, text.get_text()))
    for axis, labels in ticks.items():
        if any(map(name.search, labels)):  # drawing writes them anew
            axis.set_ticks(axis.get_majorticklocs(), [name.sub(number, label) for label in labels])
    if new:
        print(f"pictures show {', '.join(new)}: no font here has these characters; install one, such as Noto Sans")


@cache
def _characters(file: str) -> frozenset[int]:
    """Returns the code points that a font has."""
    return frozenset(get_font(file).get_charmap())
