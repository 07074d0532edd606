"""Clips (DICOM files of several frames): which of their frames become images."""

from collections.abc import Sequence
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


def take_frames(table: SourceTable, frames: str) -> SourceTable:
    """Gives each frame that is picked of a clip a row of its own; masks, which do not say of which frame they are, stay
    behind. Without `frames`, there are no clips."""
    if not frames:
        return table
    files: dict[str, tuple[str, int | None]] = {}
    rows, clips = [], 0
    for row in table.rows.to_dict("records"):
        image = row["image"]
        count = read_header(table.root / image, clips=True).NumberOfFrames if image in table.dicom else 1
        if count == 1:
            rows.append(row)
            files |= {image: table.dicom[image]} if image in table.dicom else {}
            continue
        clips += 1
        for frame in pick_frames(frames, count):
            rows.append(row | {"image": f"{image}/{frame + 1}"} | dict.fromkeys(table.masks, ""))
            files[f"{image}/{frame + 1}"] = image, frame
    made = len(rows) - len(table.rows) + clips
    note = f"{counted(made, 'frame')} of {counted(clips, 'clip')} (column group: the clip)"
    return replace(table, rows=pd.DataFrame(rows, columns=table.rows.columns, dtype=object), dicom=files,
                   notes=(*table.notes, note) if clips else table.notes)
