"""A configuration -> its table, with every image read once -> the splits of its runs, which must not leak."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from busfast.data.check import inspect_images
from busfast.data.duplicate_pairs import NO_DUPLICATES
from busfast.data.external_splits import is_list_path, read_lists
from busfast.data.generators import generate
from busfast.data.label_decisions import heed_decisions, labels_file, read_label_decisions
from busfast.data.labels import CLASSES, split_labels
from busfast.data.leaks import check_leaks, find_leaks, format_leaks, leave_out_leaks
from busfast.data.open_data import find_data
from busfast.data.split import SPLITS, Split, count_parts, split_folds, split_table
from busfast.data.table import Table
from busfast.errors import UserError, choose
from busfast.pipelines.config import Config
from busfast.pipelines.pipeline_file import folder_name
from busfast.pipelines.read_images import read_images
from busfast.pipelines.settings import convert
from busfast.text import MANY, listed

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
                        "each once, such as --seeds=42,50. For a single one: --seed, without --seeds and "
                        "--preset=best.")
    split_seed = numbers[0] if config.split_seed < 0 else config.split_seed
    return [replace(config, seed=number, split_seed=split_seed) for number in numbers]


def is_phantom(config: Config) -> bool:
    """Returns whether the data folder holds the synthetic phantom."""
    return (find_data(config.data).parent / "phantom.json").is_file()


def default_split(table: Table, prepared: bool) -> str:
    """Returns the split of images for which none is asked: the one that they came with, unless they were prepared."""
    came = "original_split" in table.rows and (table.rows["original_split"] != "").any()
    return "given" if came and not prepared else "stratified"


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
    print(f"data: {len(table)} images in {table.root}" + (", a PHANTOM (synthetic)" if is_phantom(config) else ""))
    for note in table.notes:
        print(f"  {note}")
    if config.classes != CLASSES:
        print(f"  classes: {listed(config.classes)}")
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
               fold: str | None = None, allow_leaks: bool = False) -> dict[str, Split]:
    """Splits the table, or reads lists made elsewhere: name of the run -> its split. Arguments: see `split_data`.
    Raises UserError if the table cannot be split like this."""
    if is_list_path(split):
        made = replace(read_lists(split, table, () if config.label_delim else config.classes), name=split,
                       left_out=table.left_out)
        if not (made.rows["part"] == "valid").any():
            if len(made) > len(table) or config.label_delim:
                raise UserError(f"The lists at {split} name no image for valid, which training needs to choose the "
                                "best epoch; it is drawn from train only if each image has one label and is on one "
                                "list. Add a list of valid images.")
            table = replace(table, rows=table.rows.assign(original_split=made.rows["part"]))
            drawn = split_table(table, "given", seed=seed_of_split(config), classes=config.classes,
                                duplicates=duplicates, shares=(config.valid_share, config.test_share))
            made = replace(drawn, name=split, notes=(*made.notes, *drawn.notes))
        folds = {"": made}
    else:
        holdout = config.holdout if split == "center_holdout" else ()
        labels, classes = table.rows["label"], config.classes
        if config.label_delim:  # the parts have even shares of the rarest label of each image
            table, classes = replace(table, rows=table.rows.assign(label=_rarest(labels, config.label_delim))), ()
        folds = split_folds(table, split, seed=seed_of_split(config), classes=classes, holdout=holdout,
                            folds=config.folds, duplicates=duplicates, shares=(config.valid_share, config.test_share))
        if split == "given" and not allow_leaks:
            folds = {key: leave_out_leaks(made, classes) for key, made in folds.items()}
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
        allow_leaks: accept a split made elsewhere that leaks, with a warning.

    Returns:
        The name of the run -> its split.

    Raises:
        UserError: the table cannot be split like this, or the split leaks.
    """
    folds = make_folds(table, duplicates, config, split, fold, allow_leaks)
    return {name: _check_split(made, duplicates, config, allow_leaks) for name, made in folds.items()}


def split_images(table: Table, config: Config, splits: Sequence[str], *, fold: str | None = None,
                 allow_leaks: bool = False, heed: bool = True) -> dict[str, Split]:
    """Reads the images of a table and splits it in several ways, as `load_table` and `split_data` do.

    A table that cannot be split is refused before its images are read. Folds are made again only if the images have
    duplicates, which are unknown until then. Decisions about labels do not change who is on which side.

    Args:
        table: as `read_table` returns it.
        config, fold, allow_leaks: as those of `split_data`.
        splits: each as that of `split_data`.
        heed: whether to heed what a person decided about labels (see `heed_decisions`).

    Returns:
        The name of the run -> its split.

    Raises:
        UserError: an image cannot be read, the table cannot be split like this, a split leaks, or a decision about a
            label is wrong.
    """
    file = labels_file(table) if heed and not config.label_delim else None
    decisions = read_label_decisions(file, config.classes)
    made = {split: make_folds(table, NO_DUPLICATES, config, split, fold, allow_leaks) for split in splits}
    table, duplicates = inspect_images(table)
    result = {}
    for split, folds in made.items():
        if len(duplicates):
            folds = make_folds(table, duplicates, config, split, fold, allow_leaks)
        folds = {name: heed_decisions(one_fold, file, decisions) for name, one_fold in folds.items()}
        result |= {name: replace(_check_split(one_fold, duplicates, config, allow_leaks), pixels=table.pixels)
                   for name, one_fold in folds.items()}
    return result


def _check_split(split: Split, duplicates: pd.DataFrame | None, config: Config, allow_leaks: bool) -> Split:
    """Prints the size of a split's parts, and looks for leaks."""
    print(f"split: {split.name}" + (f", fold {split.fold}" if split.fold else ""))
    for note in (*split.notes, *_came_with(split)):
        print(f"  {note}")
    for part, row in count_parts(split, config.classes, config.label_delim).iterrows():
        counts = [f"{count} {label}" for label, count in row.items()] if len(row) <= MANY else \
            [f"{row.sum()} images of {(row > 0).sum()} classes, {row.min()} to {row.max()} each"]
        print(f"  {part:7}" + ", ".join(counts))
    leaks = find_leaks(split, NO_DUPLICATES if duplicates is None else duplicates)
    check_leaks(leaks, allow_leaks)
    return replace(split, leaks=format_leaks(leaks))


def _came_with(split: Split) -> list[str]:
    """Returns a warning if a split mixes the parts that the images came in."""
    if split.name not in SPLITS or split.name == "given" or "original_split" not in split.rows:
        return []
    counts = split.rows["original_split"].replace("", "none").value_counts().sort_index()
    if not {*counts.index} - {"none"}:
        return []
    parts = ", ".join(f"{part} ({count})" for part, count in counts.items())
    return [f"warning: the images came divided into {parts}, which this split mixes; to keep that: --split=given"]
