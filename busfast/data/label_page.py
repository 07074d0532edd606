"""Suspected labels as one page with the images embedded: no script, nothing fetched."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from busfast.data.audit_page import render, thumbnails

MOST = 200  # of the page; about 10 MB
Neighbor = tuple[str, str, float]  # image, its label, similarity


def write_page(page: Path, root: Path, summary: str, suspects: pd.DataFrame,
               neighbors: Sequence[Sequence[Neighbor]]) -> None:
    """Writes labels.html.

    Args:
        page: the file.
        root: the folder that the paths of images are relative to.
        summary: how many labels are suspected.
        suspects: the rows of labels.csv.
        neighbors: those of each of the first rows, which are shown.
    """
    cards = [row._asdict() | {"neighbors": near} for row, near in zip(suspects.itertuples(), neighbors, strict=False)]
    names = dict.fromkeys(name for card in cards for name in (card["image"], *(near[0] for near in card["neighbors"])))
    render(page, {"title": f"Labels of {root} that may be wrong", "summary": summary, "cards": cards,
                  "more": len(suspects) > len(cards), "pictures": thumbnails(str(root), list(names)),
                  "neighbors": max(map(len, neighbors), default=0)})
