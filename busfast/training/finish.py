"""How a run ends: validation predictions of its best epoch, checksums, a few lines on screen."""

from typing import Any

import numpy as np
import pandas as pd

from busfast.csvfile import read_rows, write_csv
from busfast.data.labels import name_predicted
from busfast.data.split import Split
from busfast.errors import UserError
from busfast.pipelines.config import Config
from busfast.text import counted
from busfast.training.callbacks import SaveBest
from busfast.training.runs import Run, file_sha256, write_record

VALID_FILE = "valid_predictions.csv"


def finish_run(run: Run, summary: dict[str, Any], config: Config, split: Split,
               probabilities: np.ndarray | None) -> None:
    """Writes valid_predictions.csv, then summary.yaml with checksums, which marks the run as done. `probabilities`, (N,
    k), are those of the validation part, in its order, at the best epoch; None: no epoch was best.
    """
    if probabilities is not None:
        _write_valid(run, config, split.only("valid").rows, probabilities)
    files = (run.models / "best.pth", run.models / "final.pth", run.results / "training_log.csv",
             run.results / "split.csv")
    sums = {path.name: file_sha256(path) for path in files if path.is_file()}
    write_record(run.results / "summary.yaml", summary | {"sha256": sums})


def _write_valid(run: Run, config: Config, valid: pd.DataFrame, probabilities: np.ndarray) -> None:
    table = valid[["image", "label"]].copy()
    table["predicted"] = name_predicted(config.classes, probabilities, config.label_delim)
    columns = pd.DataFrame(probabilities, table.index, [f"p_{name}" for name in config.classes])
    write_csv(table.join(columns), run.results / VALID_FILE, float_format="%.9g")


def read_valid(run: Run, classes: tuple[str, ...], images: pd.Series) -> np.ndarray:
    """Returns the validation predictions, (N, k), of a run's best epoch for `images`; UserError if some are missing."""
    file, columns = run.results / VALID_FILE, [f"p_{name}" for name in classes]
    header, rows, _ = read_rows(file, ("image", *columns))
    table = pd.DataFrame([cells for _, cells in rows], columns=header, dtype=object).set_index("image")[columns]
    table = table[~table.index.duplicated()]
    probabilities = table.apply(pd.to_numeric, errors="coerce").astype(float).reindex(images)
    finite = np.isfinite(probabilities.to_numpy()).all(axis=1)
    if not finite.all():
        name = probabilities.index[~finite][0]
        raise UserError(f"{file} has no finite probabilities of {name}: it was changed since training. Restore the "
                        "file, or train again.")
    return probabilities.to_numpy()


def print_summary(run: Run, rows: list[dict], best: SaveBest, config: Config, phantom: bool) -> None:
    """Prints a run's best epoch, from the rows of its log, and where its files are."""
    print(f"\n{run.name}: trained for {counted(len(rows), 'epoch')}"
          + (" on a PHANTOM (synthetic images, which say nothing about patients)" if phantom else ""))
    if best.best_epoch is None:
        print(f"  {config.monitor} was NaN in every epoch: no best weights were kept")
    else:
        row = rows[best.best_epoch - 1]
        recalls = ", ".join(f"{name} {float(row[f'recall_{name}']):.3f}" for name in config.classes
                            if f"recall_{name}" in row)
        print(f"  best epoch {best.best_epoch} by {config.monitor}: val_loss {float(row['val_loss']):.3f}, accuracy "
              f"{float(row['val_acc']):.3f}, macro AUC {float(row['macro_auc']):.3f}")
        if recalls:
            print(f"  sensitivity (validation; recall_CLASS in the log): {recalls}")
    print(f"  log, curves: {run.results}/")
    print(f"  weights:     {run.models}/best.pth, final.pth")
