"""A configuration and a table -> the runs of a split: shown on screen, and refused where something leaks."""

from dataclasses import replace
from pathlib import Path

import pandas as pd

from busfast.data.duplicate_pairs import NO_DUPLICATES
from busfast.data.external_splits import is_list_path, read_lists
from busfast.data.leaks import check_leaks, find_leaks, format_leaks
from busfast.data.split import Split, count_parts, split_folds
from busfast.data.table import Table
from busfast.errors import UserError, choose
from busfast.pipelines.config import Config, folder_name
from busfast.pipelines.settings import convert

MOST_SEEDS = 100


def seed_of_split(config: Config) -> int:
    """Returns the seed that a configuration is split with."""
    return config.seed if config.split_seed < 0 else config.split_seed


def name_split(split: str, fold: str, config: Config) -> str:
    """Returns what a run of a split is called, or of its fold ("": it has none), whatever the seed."""
    name = f"lists-{folder_name(Path(split).resolve().stem)}" if is_list_path(split) else split
    of = f"of{config.folds}" if split == "kfold" else ""  # folds of 3 and of 5 must not be taken for each other
    return f"{name}-{folder_name(fold)}{of}" if fold else name


def name_run(name: str, config: Config) -> str:
    """Adds the seed to a run's name where runs of several seeds share a split."""
    return name if config.split_seed < 0 else f"{name}-seed{config.seed}"


def list_seeds(seeds: str | int, config: Config, given: bool = False) -> list[Config]:
    """Returns a configuration for each seed, all with the `split_seed` of `config` or else the first seed's split.
    `seeds`: how many, or the seeds, separated by commas; `given`: whether the user asked for the seed of `config`.
    UserError: no number, fewer than two, more than `MOST_SEEDS`, or one of them twice."""
    numbers = convert("seeds", seeds, tuple[int, ...])
    if len(numbers) == 1:
        numbers = range(config.seed, config.seed + min(numbers[0], MOST_SEEDS + 1))
    elif given:
        raise UserError(f"--seeds={seeds} names the seeds, and --seed={config.seed} another one. Leave out --seed.")
    if not 2 <= len(numbers) <= MOST_SEEDS or len(set(numbers)) < len(numbers):
        raise UserError(f"--seeds={seeds} is out of range: give how many, 2 to {MOST_SEEDS}, or the seeds themselves, "
                        "each once, such as --seeds=42,50.")
    split_seed = numbers[0] if config.split_seed < 0 else config.split_seed
    return [replace(config, seed=number, split_seed=split_seed) for number in numbers]


def make_folds(table: Table, duplicates: pd.DataFrame | None, config: Config, split: str,
               fold: str | None = None) -> dict[str, Split]:
    """Splits the table, or reads lists made elsewhere: name of the run -> its split. Arguments: see `split_data`.
    Raises UserError if the table cannot be split like this."""
    if is_list_path(split):
        folds = {"": replace(read_lists(split, table, config.classes), name=split)}
    else:
        holdout = config.holdout if split == "center_holdout" else ()
        folds = split_folds(table, split, seed=seed_of_split(config), classes=config.classes, holdout=holdout,
                            folds=config.folds, duplicates=duplicates)
    if fold is not None and list(folds) == [""]:
        raise UserError(f"--fold={fold} does not apply to --split={split}, which has no folds. Leave it out.")
    if fold is not None:
        folds = {fold: folds[choose(f"fold of {split}", fold, folds)]}
    return {name_split(split, key, config): made for key, made in folds.items()}


def split_data(table: Table, duplicates: pd.DataFrame | None, config: Config, split: str, *,
               fold: str | None = None, allow_leaks: bool = False) -> dict[str, Split]:
    """Makes the folds of a split, prints the size of their parts, and refuses leaks.

    Args:
        table, duplicates: as `read_table` and `check_images` return them; no duplicates (None): not checked.
        config: the checked configuration.
        split: a key of `SPLITS`, or the path of lists (see `read_lists`).
        fold: only this fold of the split.
        allow_leaks: accept lists that leak, with a warning.

    Returns:
        The name of the run -> its split.

    Raises:
        UserError: the table cannot be split like this, or the split leaks.
    """
    runs = {}
    for name, made in make_folds(table, duplicates, config, split, fold).items():
        print(f"split: {split}" + (f", fold {made.fold}" if made.fold else ""))
        for note in made.notes:
            print(f"  {note}")
        for part, row in count_parts(made, config.classes).iterrows():
            print(f"  {part:7}" + ", ".join(f"{count} {label}" for label, count in row.items()), flush=True)
        leaks = find_leaks(made, NO_DUPLICATES if duplicates is None else duplicates)
        check_leaks(leaks, allow_leaks)
        runs[name] = replace(made, leaks=format_leaks(leaks))
    return runs
