"""How many images and patients were found, why some were left out, and which parts the others went to."""

import re
from functools import partial

import pandas as pd

from busfast.csvfile import read_frame
from busfast.data.quarantine import LEFT_OUT_FILE
from busfast.data.split import PARTS, UNUSED
from busfast.data.table import LEFT_OUT
from busfast.results.evaluation import Evaluation
from busfast.training.runs import Run

COLUMNS = ["image", "center", "patient", "group", "part"]
ALL = "all centers"


def count_flow(found: Evaluation) -> pd.DataFrame:
    """Counts images and groups (patients, duplicates), over all centers and at each, step by step.

    Returns:
        A row per center (`ALL`: every one) and step: center, step, images, groups. Steps: "found", "left out: REASON",
        then those of the parts that there are. Empty if the run has no split.csv.
    """
    rows, left = _read(found)
    if rows.empty:
        return pd.DataFrame(columns=["center", "step", "images", "groups"])
    # A patient of whom some images were left out is one patient.
    own = {(center, patient): group for center, patient, group in rows[["center", "patient", "group"]].to_numpy()}
    left["group"] = [own.get((center, patient), f"{center} {patient}") if patient else f"image {image}"
                     for image, center, patient in left[["image", "center", "patient"]].to_numpy()]
    left["step"] = "left out: " + left["reason"].map(lambda reason: re.split(r":| to | \(", reason)[0])
    every = pd.concat([rows.assign(step=rows["part"]), left], ignore_index=True)
    every = pd.concat([every.assign(step="found"), every])
    if rows["center"].nunique() > 1:
        every = pd.concat([every.assign(center=ALL), every])
    else:
        every["center"] = ALL
    known = ["found", *sorted(set(left["step"])), UNUSED, *PARTS, found.tested]
    steps = [step for step in dict.fromkeys(known) if (every["step"] == step).any()]
    counts = every.groupby(["center", "step"]).agg(images=("image", "size"), groups=("group", "nunique"))
    order = pd.MultiIndex.from_product([every["center"].unique(), steps], names=counts.index.names)
    return counts.reindex(order, fill_value=0).reset_index()


def _read(found: Evaluation) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Returns the images of all parts, columns `COLUMNS`, and those that were left out, columns `LEFT_OUT`."""
    members = found.record.get("members") if not found.external else None
    folder = found.run.results
    read = partial(read_frame, dtype=str, keep_default_na=False)
    if found.external:
        rows = found.test
    elif (folder / "split.csv").is_file():
        rows = read(folder / "split.csv", ("image", "part"))
    else:
        rows = pd.DataFrame(columns=COLUMNS)
    file = (Run(members[0]).results if members else folder) / LEFT_OUT_FILE
    left = read(file, ("image", "reason"), empty=True) if file.is_file() else pd.DataFrame()
    rows, left = rows.reindex(columns=COLUMNS, fill_value=""), left.reindex(columns=list(LEFT_OUT), fill_value="")
    return rows.assign(group=rows["group"].where(rows["group"] != "", "image " + rows["image"])), left
