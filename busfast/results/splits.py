"""A configuration and a table -> the runs of a split: shown on screen, and refused where something leaks."""

from pathlib import Path

import pandas as pd

from busfast.data.copies import NO_COPIES
from busfast.data.leaks import check_leaks, find_leaks, say_leaks
from busfast.data.lists import is_list_path, read_lists
from busfast.data.split import count_parts, split_folds
from busfast.errors import UserError, choose
from busfast.pipelines.config import Config, folder_name


def make_folds(table: pd.DataFrame, copies: pd.DataFrame | None, config: Config, split: str,
               fold: str | None = None) -> dict[str, pd.DataFrame]:
    """Splits the table, or reads somebody else's lists.

    Args:
        table: as `read_table` returns it.
        copies: as `check_images` returns them; None: they are not known.
        config: the checked configuration.
        split: a key of `SPLITS`, or the path of lists (see `read_lists`).
        fold: only this fold of the split.

    Returns:
        The name of the run -> the split table; `attrs` has notes, split, fold and holdout.

    Raises:
        UserError: the table cannot be split like this.
    """
    if is_list_path(split):
        name = f"lists-{folder_name(Path(split).resolve().stem)}"
        folds = {"": read_lists(split, table, config.classes)}
    else:
        name = split
        holdout = config.holdout if split == "center_holdout" else ()
        folds = split_folds(table, split, seed=config.seed, classes=config.classes, holdout=holdout,
                            folds=config.folds, copies=copies)
    if fold is not None and list(folds) == [""]:
        raise UserError(f"--fold={fold} has no meaning for --split={split}, which has no folds. Leave it out.")
    if fold is not None:
        folds = {fold: folds[choose(f"fold of {split}", fold, folds)]}
    of = f"of{config.folds}" if split == "kfold" else ""  # folds of 3 and of 5 must not be taken for each other
    runs = {}
    for key, parts in folds.items():
        parts.attrs |= {"split": split, "fold": key}
        runs[f"{name}-{folder_name(key)}{of}" if key else name] = parts
    return runs


def split_data(table: pd.DataFrame, copies: pd.DataFrame | None, config: Config, split: str, *,
               fold: str | None = None, allow_leaks: bool = False) -> dict[str, pd.DataFrame]:
    """Makes the folds of a split, shows what came out, and refuses leaks.

    Args:
        table, copies, config, split, fold: as those of `make_folds`.
        allow_leaks: go on with lists that leak all the same.

    Returns:
        As `make_folds`; `attrs` has leaks, too (in words, "" if nothing leaks).

    Raises:
        UserError: the table cannot be split like this, or the split leaks.
    """
    runs = make_folds(table, copies, config, split, fold)
    for parts in runs.values():
        print(f"split: {split}" + (f", fold {parts.attrs['fold']}" if parts.attrs["fold"] else ""))
        for note in parts.attrs["notes"]:
            print(f"  {note}")
        for part, row in count_parts(parts, config.classes).iterrows():
            print(f"  {part:7}" + ", ".join(f"{count} {label}" for label, count in row.items()), flush=True)
        leaks = find_leaks(parts, NO_COPIES if copies is None else copies)
        check_leaks(leaks, allow_leaks)
        parts.attrs["leaks"] = say_leaks(leaks)
    return runs
