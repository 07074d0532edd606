"""A configuration -> the table of its images, with labels that are classes; labels that look wrong are refused."""

import re
from dataclasses import replace

import pandas as pd

from busfast.data.labels import CLASSES, find_delimiter, join_labels, order_classes, split_labels
from busfast.data.open_data import read_data
from busfast.data.table import LEFT_OUT, Table, as_table
from busfast.errors import UserError, suggest
from busfast.pipelines.config import Config
from busfast.text import MANY
from busfast.yamlfile import yaml_list

RARE = 20  # a label this many times rarer than one that it resembles may be misspelt; of three images, five times


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
        raise UserError(f"label_delim='{delim}' separates no labels of {table.title} (such as "
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


def refuse_delimiters(table: Table) -> None:
    """Raises UserError for labels that look like several in one."""
    delim, held = find_delimiter(table.rows["label"])
    if delim:
        row = held[0]
        raise UserError(f"{table.title}, row {row + 2}, column label: '{table.rows['label'].iloc[row]}' looks like "
                        f"several labels, as do those of {len(held)} of {len(table)} images. If an image may have "
                        f"several: label_delim='{delim}' (--label_delim='{delim}'). Else rename the label.")


def _refuse_misspelt(table: Table) -> None:
    """Raises UserError for a rare label that resembles a frequent one, and differs in more than a number."""
    counts = table.rows["label"].value_counts()
    for label, count in counts.items():
        often = counts.index[counts >= count * (5 if count <= 3 else RARE)]
        frequent = [name for name in often if re.sub(r"\d", "", name) != re.sub(r"\d", "", label)]
        if label not in CLASSES and (hint := suggest(label, frequent, cutoff=0.8)):
            row = int(table.rows.index[table.rows["label"] == label][0]) + 2
            classes = order_classes(counts.index)
            raise UserError(f"{table.title}, row {row}, column label: '{label}' is the label of {count} of "
                            f"{len(table)} images.{hint} Correct it; or, if it is a class, name all classes in the "
                            f"pipeline file (classes: {yaml_list(classes) if len(classes) <= MANY else '[...]'}).")


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
            raise UserError(f"{table.title}, row {row + 2}, column label: unknown label '{label}'.{hint} The pipeline "
                            f"names the classes {', '.join(classes)}.")
    if not len(other):
        return table
    counts = ", ".join(f"{label} ({count})" for label, count in other["label"].value_counts().items())
    return replace(table, rows=table.rows.drop(index=other.index).reset_index(drop=True),
                   left_out=other.assign(reason="not of a class: " + other["label"])[list(LEFT_OUT)],
                   notes=(*table.notes, f"{len(other)} images of classes that the pipeline does not name are left out: "
                                        f"{counts}"))
