"""`busfast.dataloaders`: a folder, CSV file or DataFrame -> DataLoaders, with patients and duplicates on one side."""

from inspect import signature
from pathlib import Path
from typing import Any

import pandas as pd

from busfast.data.labels import find_classes, plain
from busfast.data.open_data import is_prepared
from busfast.data.sources.columns import IS_VALID, PARTS, USUAL, usual_column
from busfast.data.table import OPTIONAL, REQUIRED, Table
from busfast.errors import UserError, choose
from busfast.pipelines.config import Config
from busfast.pipelines.dataloaders import TableDataLoaders, default_image, make_dls
from busfast.pipelines.image import ImagePipeline
from busfast.pipelines.read_images import read_images, refuse_delimiters, unify_labels, with_classes
from busfast.pipelines.splits import default_split, open_table, split_images
from busfast.text import listed

ELSEWHERE = {"valid_pct": "valid_share", "batch_size": "bs", "vocab": "classes", "image_size": "size"}
INTERNAL = {"rank", "world_size", "backend", "how"}  # of `make_dls`, or no argument


def dataloaders(data: str | Path | pd.DataFrame, *, size: int | tuple[int, int] = 224, split: str = "", bs: int = 32,
                item_tfms: Any = None, batch_tfms: Any = None, image: ImagePipeline | None = None,
                classes: tuple[str, ...] = (), label_delim: str = "", seed: int = 42, valid_share: float = 0.15,
                test_share: float = 0.15, allow_leaks: bool = False, path: str | Path = ".",
                **how: Any) -> TableDataLoaders:
    """Makes DataLoaders of images as they lie; finds classes, split and duplicates, and prints what it found.

    Args:
        data: a folder with table.csv, class folders (also below train, valid and test), a CSV file with the usual
            column names, or such a DataFrame, whose paths are absolute or relative to the working directory.
        size: side of the model's square input, or its height and width, pixels.
        split: see `train --split`; default: the one that came with the images, else stratified.
        bs: images per batch.
        item_tfms, batch_tfms: see `make_dls`.
        image: the image pipeline, in the place of `size`; see `make_dls`.
        classes: the labels in the model's order, and no others; default: those of the images.
        label_delim: the character between the labels of an image that has several; "": each has one.
        seed: of the split.
        valid_share, test_share: of a split that is made here, 0 to 1.
        allow_leaks: accept a split that came with the images and has a patient or a duplicate on two sides.
        path: where the Learner's files go.
        how: other arguments of `make_dls`; by default decoded pixels are cached.

    Returns:
        DataLoaders of the training and validation parts; `split` holds the test part, for
        `learn.get_preds(dl=dls.test_dl(dls.split.only("test"), with_labels=True))` when everything has been chosen.

    Raises:
        UserError: the images cannot be read or split.
    """
    for name in how:
        if name in ELSEWHERE:
            raise UserError(f"dataloaders calls {name} {ELSEWHERE[name]}.")
        choose("argument of dataloaders", name,
               sorted({*signature(make_dls).parameters, *signature(dataloaders).parameters} - INTERNAL))
    wanted: dict[str, Any] = {"classes": classes, "seed": seed, "label_delim": label_delim,
                              "valid_share": valid_share, "test_share": test_share}
    if isinstance(data, pd.DataFrame):
        table = _from_frame(data, label_delim)
        config = with_classes(Config(**wanted), table)
        print(f"data: {len(table)} images of a DataFrame\n  classes: {listed(config.classes)}")
    else:
        table, config = read_images(Config(data=str(data), **wanted))
        table = open_table(config, table)
    split = split or default_split(table, not isinstance(data, pd.DataFrame) and is_prepared(data))
    made, *others = split_images(table, config, [split], allow_leaks=allow_leaks).values()
    if others:
        raise UserError(f"split='{split}' has {len(others) + 1} folds. Take them from split_folds, and make_dls.")
    settings = {"classes": config.classes, "label_delim": label_delim, "bs": bs, "cache": "auto", "path": path,
                "item_tfms": item_tfms, "batch_tfms": batch_tfms} | how
    dls = make_dls(made, image or default_image(size, batch_tfms), **settings)
    dls.split = made
    return dls


def _from_frame(frame: pd.DataFrame, label_delim: str) -> Table:
    """Returns the table of a DataFrame, whose columns may have the usual names; checks labels and parts."""
    names: dict[Any, str] = {}
    for name in (*REQUIRED, *OPTIONAL, "original_split"):
        if (title := usual_column(name, frame)) is not None:
            names[title] = name
    if missing := [name for name in REQUIRED if name not in names.values()]:
        raise UserError(f"No column of the DataFrame looks like {' or '.join(map(repr, missing))} (found: "
                        f"{', '.join(map(str, frame))}; usual names: {', '.join(USUAL[missing[0]])}). Rename the "
                        "column.")
    titles = {name: title for title, name in names.items()}
    rows = frame.rename(columns=names).reset_index(drop=True)
    rows = rows.assign(**{name: "" for name in OPTIONAL if name not in rows}).fillna("").astype(str)
    rows = rows.apply(lambda column: column.str.strip())
    for name in REQUIRED[:1] if label_delim else REQUIRED:
        if (empty := rows.index[rows[name] == ""]).size:
            raise UserError(f"Row {empty[0]} of the DataFrame has no {name} (column {titles[name]}). Fill it, or "
                            "remove the row.")
    if "original_split" in rows:
        values = rows["original_split"].str.lower()
        meanings = IS_VALID if plain(str(titles["original_split"])).startswith("isval") else PARTS
        if others := {*values} - {*meanings}:
            raise UserError(f"The column {titles['original_split']} of the DataFrame holds "
                            f"{', '.join(sorted(others))}, which is none of {', '.join(filter(None, meanings))}. "
                            "Correct or rename it.")
        rows["original_split"] = values.map(meanings)
    if label_delim:
        return unify_labels(Table(rows), label_delim)
    refuse_delimiters(Table(rows))
    return Table(rows.assign(label=rows["label"].map(find_classes(rows["label"]))))
