"""Clips (DICOM files of several frames): which of their frames become images."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from busfast.data.sources.common import SourceTable
from busfast.data.sources.dicom_file import read_header
from busfast.errors import UserError
from busfast.text import counted


def pick_frames(frames: str, count: int, flag: str = "frames") -> Sequence[int]:
    """Returns which of `count` frames "first", "middle", "all" or "every:N" names; UserError if it is none of these."""
    kind, colon, step = frames.partition(":")
    if kind == "every" and step.isdecimal() and int(step):
        return range(0, count, int(step))
    named = {"first": range(1), "middle": range(count // 2, count // 2 + 1), "all": range(count)}
    if colon or kind not in named:
        raise UserError(f"--{flag}={frames}: name the {flag} of a file that become images: first, middle, all, or "
                        "every:N, such as every:10.")
    return named[kind]


def split_files(table: SourceTable, picked: str, counts: Mapping[str, int],
                flag: str = "frames") -> tuple[pd.DataFrame, dict[str, tuple[str, int]]]:
    """Gives each frame that is picked of a file a row of its own; masks, which do not say of which frame they are, stay
    behind. `counts`: image -> frames, of those that have several. Returns the rows, and new image -> file, frame."""
    rows: list[dict] = []
    taken: dict[str, tuple[str, int]] = {}
    for row in table.rows.to_dict("records"):
        image = row["image"]
        new = {f"{image}/{number + 1}": (image, number)
               for number in (pick_frames(picked, counts[image], flag) if image in counts else ())}
        rows += [row | {"image": name} | dict.fromkeys(table.masks, "") for name in new] or [row]
        taken |= new
    return pd.DataFrame(rows, columns=table.rows.columns, dtype=object), taken


def take_frames(table: SourceTable, frames: str) -> SourceTable:
    """Makes rows of the frames that are picked of clips. Without `frames`, there are no clips."""
    if not frames:
        return table
    counts = {image: count for image in table.dicom
              if (count := read_header(table.root / image, clips=True).NumberOfFrames) > 1}
    rows, taken = split_files(table, frames, counts)
    note = f"{counted(len(taken), 'frame')} of {counted(len(counts), 'clip')} (column group: the clip)"
    return replace(table, rows=rows, dicom={image: table.dicom[image] for image in table.dicom if image not in counts}
                   | taken, notes=(*table.notes, note) if counts else table.notes)
