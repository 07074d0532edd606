"""How a run ends: what its best epoch said of the validation part, checksums, a few lines on screen."""

from typing import Any

import numpy as np
import pandas as pd

from busfast.csvfile import read_rows, write_csv
from busfast.errors import UserError
from busfast.pipelines.config import Config
from busfast.training.callbacks import SaveBest
from busfast.training.runs import Run, file_sha256, write_record

VALID_FILE = "valid_predictions.csv"


def finish_run(run: Run, summary: dict[str, Any], config: Config, parts: pd.DataFrame,
               probabilities: np.ndarray | None) -> None:
    """Writes what a trained run ends with; summary.yaml, which says that it is done, comes last.

    Args:
        run: whose weights and log are written.
        summary: for summary.yaml, to which checksums are added.
        config: names the classes.
        parts: the split table that was trained.
        probabilities: (n, k), of the validation part, in its order, by the training process itself at the best epoch;
            None: there was none.
    """
    if probabilities is not None:
        _write_valid(run, config.classes, parts, probabilities)
    files = (run.models / "best.pth", run.models / "final.pth", run.results / "training_log.csv",
             run.results / "split.csv")
    sums = {path.name: file_sha256(path) for path in files if path.is_file()}
    write_record(run.results / "summary.yaml", summary | {"sha256": sums})


def _write_valid(run: Run, classes: tuple[str, ...], parts: pd.DataFrame, probabilities: np.ndarray) -> None:
    table = parts.loc[parts["part"] == "valid", ["image", "label"]].reset_index(drop=True)
    table["predicted"] = np.array(classes)[probabilities.argmax(axis=1)]
    for index, name in enumerate(classes):
        table[f"p_{name}"] = probabilities[:, index]
    write_csv(table, run.results / VALID_FILE, float_format="%.9g")


def read_valid(run: Run, classes: tuple[str, ...], images: pd.Series) -> np.ndarray:
    """Reads what training said of images of the validation part at its best epoch.

    Args:
        run: a run that has such a file.
        classes: in the model's order.
        images: of the validation part, as the table names them.

    Returns:
        Probabilities, (n, k).

    Raises:
        UserError: the file does not hold them.
    """
    file, columns = run.results / VALID_FILE, [f"p_{name}" for name in classes]
    header, rows, _ = read_rows(file, ("image", *columns))
    table = pd.DataFrame([cells for _, cells in rows], columns=header, dtype=object).set_index("image")[columns]
    table = table[~table.index.duplicated()]
    found = table.apply(pd.to_numeric, errors="coerce").astype(float).reindex(images)
    if not np.isfinite(found.to_numpy()).all():
        name = found.index[~np.isfinite(found.to_numpy()).all(axis=1)][0]
        raise UserError(f"{file} has no finite probabilities of {name}: it was changed since training. Bring the old "
                        "file back, or train again.")
    return found.to_numpy()


def print_summary(run: Run, rows: list[dict], best: SaveBest, config: Config, phantom: bool) -> None:
    """Prints a run's best epoch and where everything is.

    Args:
        run, config: which run.
        rows: of the log.
        best: the `SaveBest` that it had.
        phantom: whether its images are synthetic.
    """
    print(f"\n{run.name}: {len(rows)} epochs" + (" of a PHANTOM (synthetic images; says nothing of patients)"
                                                 if phantom else ""))
    if best.best_epoch is None:
        print(f"  no epoch had a {config.monitor} that is a number: no best weights were kept")
    else:
        row = rows[best.best_epoch - 1]
        recalls = ", ".join(f"{name} {float(row[f'recall_{name}']):.3f}" for name in config.classes)
        print(f"  best epoch {best.best_epoch} by {config.monitor}: val_loss {float(row['val_loss']):.3f}, accuracy "
              f"{float(row['val_acc']):.3f}, macro AUC {float(row['macro_auc']):.3f}")
        print(f"  recall (validation): {recalls}")
    print(f"  log, curves: {run.results}/")
    print(f"  weights:     {run.models}/best.pth, final.pth")
    print("  research only, not a medical device", flush=True)
