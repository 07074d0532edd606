"""Figures: their colors, and how they are written."""

import warnings
from pathlib import Path

from matplotlib.figure import Figure

from busfast.files import atomic

# Okabe and Ito's colors, which color-blind people tell apart; markers and dashes tell them apart in grey print.
STYLES = [{"color": color, "marker": marker, "linestyle": line} for color, marker, line in (
    ("#0072B2", "o", "-"), ("#D55E00", "s", "--"), ("#009E73", "^", "-."), ("#CC79A7", "D", ":"),
    ("#E69F00", "v", "-"), ("#56B4E9", "P", "--"), ("#000000", "X", "-."))]


def plain(text: str) -> str:
    """Returns a text that is drawn as it stands: matplotlib takes what is between two $ for a formula."""
    return text.replace("$", r"\$")


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG, whole or not at all."""
    with atomic(path, "wb") as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a folder's name may be of any script
        figure.savefig(file, format="png", dpi=150)
