"""A configuration and a table -> the runs of a split: shown on screen, and refused where something leaks."""

from pathlib import Path

import pandas as pd

from busfast.data.leaks import check_leaks, find_leaks, say_leaks
from busfast.data.lists import is_list_path, read_lists
from busfast.data.split import count_parts, split_folds
from busfast.errors import UserError, choose
from busfast.pipelines.config import Config, folder_name


def split_data(table: pd.DataFrame, copies: pd.DataFrame, config: Config, split: str, *, fold: str | None = None,
               allow_leaks: bool = False) -> dict[str, pd.DataFrame]:
    """Splits the table (or reads somebody else's lists), shows what came out, and refuses leaks.

    Args:
        table, copies: as `load_table` returns them.
        config: the checked configuration.
        split: a key of `SPLITS`, or the path of lists (see `read_lists`).
        fold: only this fold of the split.
        allow_leaks: train on lists that leak all the same.

    Returns:
        The name of the run -> the split table; `attrs` has split, fold, holdout and leaks (in words, "" if
        nothing leaks).

    Raises:
        UserError: the table cannot be split like this, or the split leaks.
    """
    if is_list_path(split):
        name = f"lists-{folder_name(Path(split).resolve().stem)}"
        folds = {"": read_lists(split, table, config.classes)}
    else:
        name = split
        holdout = config.holdout if split == "center_holdout" else ()
        folds = split_folds(table, split, seed=config.seed, classes=config.classes, holdout=holdout,
                            folds=config.folds)
    if fold is not None and list(folds) == [""]:
        raise UserError(f"--fold={fold} has no meaning for --split={split}, which has no folds. Leave it out.")
    if fold is not None:
        folds = {fold: folds[choose(f"fold of {split}", fold, folds)]}
    runs = {}
    for key, parts in folds.items():
        print(f"split: {split}" + (f", fold {key}" if key else ""))
        for note in parts.attrs["notes"]:
            print(f"  {note}")
        for part, row in count_parts(parts, config.classes).iterrows():
            print(f"  {part:6}" + ", ".join(f"{count} {label}" for label, count in row.items()), flush=True)
        leaks = find_leaks(parts, copies)
        check_leaks(leaks, allow_leaks)
        parts.attrs |= {"split": split, "fold": key, "leaks": say_leaks(leaks)}
        runs[f"{name}-{folder_name(key)}" if key else name] = parts
    return runs
