"""predictions.csv: what a run's best weights say of each validation and test image; all figures come from it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from busfast.data.fingerprint import fingerprint_images
from busfast.data.places import image_paths
from busfast.data.rows import read_rows, write_csv
from busfast.data.split_file import read_split
from busfast.errors import UserError
from busfast.results.calibration import calibrate
from busfast.results.runs import Run
from busfast.words import counted

FILE = "predictions.csv"
PARTS = ("valid", "test")
KNOWN = ("image", "part", "center", "device", "patient", "group", "label")


def read_parts(run: Run, root: str | Path) -> pd.DataFrame:
    """Reads the rows of the validation and test part of a run.

    Args:
        run: a trained run.
        root: folder of the table, that image paths are relative to.

    Raises:
        UserError: one of the parts is empty.
    """
    path = run.results / "split.csv"
    parts = read_split(path, root)
    parts = parts[parts["part"].isin(PARTS)].reset_index(drop=True)
    parts.attrs["root"] = str(root)
    for part in PARTS:
        if part not in set(parts["part"]):
            raise UserError(f"The run {run.name} has no image in part '{part}' ({path}), so there is nothing to "
                            "report. Train a split that has one, such as --split=stratified.")
    for column in KNOWN:
        if column not in parts:
            parts[column] = "image " + parts["image"] if column == "group" else ""
    return parts


def find_images(run: Run, parts: pd.DataFrame) -> list[Path]:
    """Returns the files of a run's images, in order; `run` names it in errors.

    Raises:
        UserError: an image is gone.
    """
    paths = image_paths(parts)
    gone = [name for name, path in zip(parts["image"], paths, strict=True) if not path.is_file()]
    if gone:
        raise UserError(f"{counted(len(gone), 'image')} of {run.name} cannot be found in {parts.attrs['root']}, such "
                        f"as {gone[0]}. Bring them back; where the folder was moved, name its place in sources.csv.")
    return paths


def check_unchanged(run: Run, parts: pd.DataFrame) -> list[Path]:
    """Makes sure that the images are there, with the pixels that they had when the run was trained.

    Args:
        run: names the run in errors.
        parts: as `read_parts` returns it; without the column `pixels`, changes cannot be seen, which is said.

    Returns:
        The files, in order.

    Raises:
        UserError: an image is gone or was changed.
    """
    paths = find_images(run, parts)
    if "pixels" not in parts:
        print(f"{run.name}: its split.csv has no column pixels, so it is not known whether images changed since",
              flush=True)
        return paths
    changed = parts["image"][(fingerprint_images(paths)["pixels"] != parts["pixels"]).to_numpy()]
    if len(changed):
        raise UserError(f"{counted(len(changed), 'image')} of {run.name} changed since it was trained, such as "
                        f"{changed.iloc[0]}. Bring the old ones back, or train again.")
    return paths


def write_predictions(run: Run, classes: Sequence[str], parts: pd.DataFrame, logits: np.ndarray) -> None:
    """Writes predictions.csv: a row an image, with its logits and probabilities (logit_CLASS, p_CLASS).

    Args:
        run: where to write.
        classes: in the model's order.
        parts: as `read_parts` returns it.
        logits: (n, k), in the order of `parts`.
    """
    table = parts[list(KNOWN)].assign(predicted=np.array(classes)[logits.argmax(1)])
    for prefix, values in (("logit_", logits), ("p_", calibrate(logits, 1))):
        table = table.assign(**{f"{prefix}{name}": values[:, index] for index, name in enumerate(classes)})
    write_csv(table, run.results / FILE, float_format="%.9g")


def read_predictions(run: Run, classes: Sequence[str]) -> pd.DataFrame:
    """Reads predictions.csv back; the columns logit_CLASS and p_CLASS are numbers, all others text.

    Raises:
        UserError: it is not there, or a cell is not what it should be; names row and column.
    """
    path = run.results / FILE
    if not path.is_file():
        raise UserError(f"The run {run.name} has no {FILE}. Make it: python -m busfast evaluate --run={run.name}")
    numbers = [f"{prefix}{name}" for prefix in ("logit_", "p_") for name in classes]
    header, rows, _ = read_rows(path, (*KNOWN, *numbers))
    table = pd.DataFrame([cells for _, cells in rows], columns=header, dtype=object)
    for name in numbers:
        values = pd.to_numeric(table[name], errors="coerce").astype(float)
        _refuse(path, table, name, np.isfinite(values), "a finite number")
        table[name] = values
    _refuse(path, table, "label", table["label"].isin(classes), "one of " + ", ".join(classes))
    _refuse(path, table, "part", table["part"].isin(PARTS), "one of " + ", ".join(PARTS))
    return table


def _refuse(path: Path, table: pd.DataFrame, column: str, good: pd.Series, wanted: str) -> None:
    if not good.all():
        row = int(np.flatnonzero(~good.to_numpy())[0])
        raise UserError(f"{path}, row {row + 2}, column {column}: '{table[column].iloc[row]}' is not {wanted}. "
                        "Write the file anew: python -m busfast evaluate --again")


def arrays(predictions: pd.DataFrame, classes: Sequence[str], prefix: str = "p_") -> tuple[np.ndarray, np.ndarray]:
    """Returns labels, int (n,), and the columns `prefix`CLASS, float (n, k), of predictions."""
    labels = predictions["label"].map({name: index for index, name in enumerate(classes)}).to_numpy(int)
    return labels, predictions[[f"{prefix}{name}" for name in classes]].to_numpy(float)
