"""A configuration -> its table, with every image read once -> the splits of its runs, which must not leak."""

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from busfast.data.check import inspect_images
from busfast.data.duplicate_pairs import NO_DUPLICATES
from busfast.data.external_splits import is_list_path, read_lists
from busfast.data.generators import generate
from busfast.data.labels import CLASSES, join_labels, order_classes, split_labels
from busfast.data.leaks import check_leaks, find_leaks, format_leaks
from busfast.data.open_data import find_data, read_data
from busfast.data.split import Split, count_parts, split_folds
from busfast.data.table import Table, as_table
from busfast.errors import UserError, choose, suggest
from busfast.pipelines.config import Config, folder_name
from busfast.pipelines.settings import convert
from busfast.text import MANY, listed

MOST_SEEDS = 100
RARE = 20  # a label this many times rarer than one that it resembles may be misspelt; of three images, five times


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


def is_phantom(config: Config) -> bool:
    """Returns whether the data folder holds the synthetic phantom."""
    return (find_data(config.data).parent / "phantom.json").is_file()


def default_split(table: Table, prepared: bool) -> str:
    """Returns the split of images for which none is asked: the one that they came with, unless they were prepared."""
    came = "original_split" in table.rows and (table.rows["original_split"] != "").any()
    return "given" if came and not prepared else "stratified"


def read_images(config: Config) -> tuple[Table, Config]:
    """Reads the images of a configuration, whatever form they have, and finds its classes.

    Args:
        config: the checked configuration.

    Returns:
        The table, only of the classes that the configuration names, if it does; the configuration with the classes.

    Raises:
        UserError: anything wrong with the table; a label that may be a misspelt class; fewer than two classes.
    """
    if config.label_delim:
        table = unify_labels(read_data(config.data, label_delim=config.label_delim), config.label_delim)
        config = with_classes(config, table)
        return _without_labels(table, config), config
    table = read_data(config.data, config.classes, other_labels=True)
    if config.classes:
        return _restrict(table, config.classes), config
    refuse_delimiters(table)
    _refuse_misspelt(table)
    return table, with_classes(config, table)


def unify_labels(table: Table, delim: str) -> Table:
    """Writes the labels of each image as classes, in one order; UserError if no image has several."""
    rows = table.rows
    if not rows["label"].str.contains(delim, regex=False).any():
        raise UserError(f"label_delim='{delim}' separates no labels of {_named(table)} (such as "
                        f"'{rows['label'].iloc[0]}'). Leave it out, or name the character that does.")
    return replace(table, rows=rows.assign(label=rows["label"].map(join_labels(rows["label"], delim))))


def _without_labels(table: Table, config: Config) -> Table:
    """Leaves out labels that the configuration does not name."""
    def keep(label: str) -> str:
        return config.label_delim.join(one for one in config.classes if one in split_labels(label, config.label_delim))

    rows = table.rows.assign(label=table.rows["label"].map(keep))
    missing = [one for one in config.classes if one not in order_classes(rows["label"], config.label_delim)]
    if missing:
        raise UserError(f"No image has the label {' or '.join(map(repr, missing))}. Correct classes: "
                        f"{', '.join(config.classes)}.")
    return replace(table, rows=rows)


def _named(table: Table) -> str:
    """The table for messages: its file, the folder of class folders, or a DataFrame."""
    if table.file is None:
        return "the DataFrame"
    return str(table.file if os.path.isfile(table.file) else table.root)


def refuse_delimiters(table: Table) -> None:
    """Raises UserError for labels that look like several in one."""
    for delim in "|;,/":
        held = table.rows["label"].str.contains(delim, regex=False)
        if held.any():
            row = int(np.flatnonzero(held)[0])
            raise UserError(f"{_named(table)}, row {row + 2}, column label: '{table.rows['label'].iloc[row]}' looks "
                            f"like several labels, as do those of {int(held.sum())} of {len(table)} images. If an "
                            f"image may have several: label_delim='{delim}' (--label_delim='{delim}'). Else rename "
                            "the label.")


def _refuse_misspelt(table: Table) -> None:
    """Raises UserError for a rare label that resembles a frequent one, and differs in more than a number."""
    counts = table.rows["label"].value_counts()
    for label, count in counts.items():
        often = counts.index[counts >= count * (5 if count <= 3 else RARE)]
        frequent = [name for name in often if re.sub(r"\d", "", name) != re.sub(r"\d", "", label)]
        if label not in CLASSES and (hint := suggest(label, frequent, cutoff=0.8)):
            row = int(table.rows.index[table.rows["label"] == label][0]) + 2
            raise UserError(f"{table.file}, row {row}, column label: '{label}' is the label of {count} of {len(table)} "
                            f"images.{hint} Correct it; or, if it is a class, name all classes in the pipeline file "
                            "(classes: [...]).")


def with_classes(config: Config, table: Table | pd.DataFrame) -> Config:
    """Returns a configuration that names its classes: its own, else those of the table; UserError: fewer than two."""
    if config.classes:
        return config
    classes = order_classes(as_table(table).rows["label"], config.label_delim)
    if len(classes) < 2:
        raise UserError(f"All images are of the class '{classes[0]}'. Training needs two classes or more.")
    return replace(config, classes=classes)


def _restrict(table: Table, classes: tuple[str, ...]) -> Table:
    """Leaves out the rows of other classes."""
    other = table.rows[~table.rows["label"].isin(classes)]
    for row, label in zip(other.index, other["label"], strict=True):
        if hint := suggest(label, classes):
            raise UserError(f"{table.file}, row {row + 2}, column label: unknown label '{label}'.{hint} The pipeline "
                            f"names the classes {', '.join(classes)}.")
    if not len(other):
        return table
    counts = ", ".join(f"{label} ({count})" for label, count in other["label"].value_counts().items())
    return replace(table, rows=table.rows.drop(index=other.index).reset_index(drop=True),
                   notes=(*table.notes, f"{len(other)} images of classes that the pipeline does not name are left out: "
                                        f"{counts}"))


def open_table(config: Config, table: Table | None = None) -> Table:
    """Reads the table of a configuration, which is generated first if it has a source; prints what it is.

    Args:
        config: the checked configuration.
        table: the table, if it has been read already.

    Raises:
        UserError: anything wrong with the table.
    """
    if table is None:
        generate(config.source, config.data)
        table, config = read_images(config)
    print(f"data: {len(table)} images in {table.root}"
          + (", a PHANTOM (synthetic)" if is_phantom(config) else ""), flush=True)
    for note in table.notes:
        print(f"  {note}")
    if config.classes != CLASSES:
        print(f"  classes: {listed(config.classes)}", flush=True)
    return table


def load_table(config: Config) -> tuple[Table, pd.DataFrame]:
    """Reads the table of a configuration (see `open_table`) and each of its images once.

    Returns:
        The table, and the pairs of duplicates among its images; see `check_images`.

    Raises:
        UserError: anything wrong with the table or its images.
    """
    return inspect_images(open_table(config))


def make_folds(table: Table, duplicates: pd.DataFrame | None, config: Config, split: str,
               fold: str | None = None) -> dict[str, Split]:
    """Splits the table, or reads lists made elsewhere: name of the run -> its split. Arguments: see `split_data`.
    Raises UserError if the table cannot be split like this."""
    if is_list_path(split):
        folds = {"": replace(read_lists(split, table, () if config.label_delim else config.classes), name=split)}
    else:
        holdout = config.holdout if split == "center_holdout" else ()
        labels, classes = table.rows["label"], config.classes
        if config.label_delim:  # the parts have even shares of the rarest label of each image
            table, classes = replace(table, rows=table.rows.assign(label=_rarest(labels, config.label_delim))), ()
        folds = split_folds(table, split, seed=seed_of_split(config), classes=classes, holdout=holdout,
                            folds=config.folds, duplicates=duplicates, shares=(config.valid_share, config.test_share))
        if config.label_delim:
            own = dict(zip(table.rows["image"], labels, strict=True))
            folds = {key: replace(made, rows=made.rows.assign(label=made.rows["image"].map(own)),
                                  notes=("an image with several labels counts as its rarest one here", *made.notes))
                     for key, made in folds.items()}
    if fold is not None and list(folds) == [""]:
        raise UserError(f"--fold={fold} does not apply to --split={split}, which has no folds. Leave it out.")
    if fold is not None:
        folds = {fold: folds[choose(f"fold of {split}", fold, folds)]}
    return {name_split(split, key, config): made for key, made in folds.items()}


def _rarest(labels: pd.Series, delim: str) -> pd.Series:
    """Returns the rarest label of each image; "(none)" of one without."""
    each = labels.map(lambda label: split_labels(label, delim))
    counts = each.explode().value_counts()
    return each.map(lambda found: min(found, key=lambda one: (counts[one], one), default="(none)"))


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
    folds = make_folds(table, duplicates, config, split, fold)
    return {name: _check_split(made, duplicates, config, allow_leaks) for name, made in folds.items()}


def split_images(table: Table, config: Config, splits: Sequence[str], *, fold: str | None = None,
                 allow_leaks: bool = False) -> dict[str, Split]:
    """Reads the images of a table and splits it in several ways, as `load_table` and `split_data` do.

    A table that cannot be split is refused before its images are read. Folds are made again only if the images have
    duplicates, which are unknown until then.

    Args:
        table: as `read_table` returns it.
        config, fold, allow_leaks: as those of `split_data`.
        splits: each as that of `split_data`.

    Returns:
        The name of the run -> its split.

    Raises:
        UserError: an image cannot be read, the table cannot be split like this, or a split leaks.
    """
    made = {split: make_folds(table, NO_DUPLICATES, config, split, fold) for split in splits}
    table, duplicates = inspect_images(table)
    result = {}
    for split, folds in made.items():
        if len(duplicates) and not is_list_path(split):
            folds = make_folds(table, duplicates, config, split, fold)
        result |= {name: replace(_check_split(one_fold, duplicates, config, allow_leaks), pixels=table.pixels)
                   for name, one_fold in folds.items()}
    return result


def _check_split(split: Split, duplicates: pd.DataFrame | None, config: Config, allow_leaks: bool) -> Split:
    """Prints the size of a split's parts, and looks for leaks."""
    print(f"split: {split.name}" + (f", fold {split.fold}" if split.fold else ""))
    for note in split.notes:
        print(f"  {note}")
    for part, row in count_parts(split, config.classes, config.label_delim).iterrows():
        counts = [f"{count} {label}" for label, count in row.items()] if len(row) <= MANY else \
            [f"{row.sum()} images of {(row > 0).sum()} classes, {row.min()} to {row.max()} each"]
        print(f"  {part:7}" + ", ".join(counts), flush=True)
    leaks = find_leaks(split, NO_DUPLICATES if duplicates is None else duplicates)
    check_leaks(leaks, allow_leaks)
    return replace(split, leaks=format_leaks(leaks))
