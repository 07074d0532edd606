"""A table -> train, valid and test parts, each group in one part only. Each way to split is a function in `SPLITS`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from shlex import quote
from typing import Any

import numpy as np
import pandas as pd

from busfast.data.assign import assign
from busfast.data.groups import add_groups, group_names
from busfast.data.labels import note_writings, order_classes, split_labels
from busfast.data.table import Table, as_table
from busfast.errors import UserError, choose

PARTS = ("train", "valid", "test")
UNUSED = "unused"  # the part of rows that may be in none of `PARTS`
VALID_SHARE = TEST_SHARE = 0.15


@dataclass(frozen=True, eq=False)
class Split(Table):
    """A table whose rows have a column `part` (train, valid, test or unused); its notes are about the split.

    Attributes:
        name: the way it was made, a key of `SPLITS`, or the path of lists.
        fold: name of the fold; "" where the split has no folds.
        holdout: the centers that are held out.
        leaks: what is in two parts, such as "3 patients"; "" if nothing is.
        cleaned: which decisions about labels were heeded (see `heed_decisions`); empty if there are none.
    """

    name: str = ""
    fold: str = ""
    holdout: tuple[str, ...] = ()
    leaks: str = ""
    cleaned: Mapping[str, Any] = field(default_factory=dict)

    def only(self, *parts: str) -> "Split":
        """Returns the rows of some parts."""
        return replace(self, rows=self.rows[self.rows["part"].isin(parts)].reset_index(drop=True))

    def record(self) -> dict[str, Any]:
        """Returns what a run's config.yaml keeps of a split, in plain values."""
        return {"split": self.name, "fold": self.fold, "holdout": list(self.holdout), "leaks": self.leaks,
                **({"label_decisions": dict(self.cleaned)} if self.cleaned else {})}


def split_table(table: Table | pd.DataFrame, split: str = "stratified", **options) -> Split:
    """Splits a table in a way that gives one split; arguments, result and errors are those of `split_folds`."""
    folds = split_folds(table, split, **options)
    if len(folds) > 1:
        raise UserError(f"{split} gives {len(folds)} splits: {', '.join(folds)}. Take them from split_folds.")
    return next(iter(folds.values()))


def split_folds(table: Table | pd.DataFrame, split: str = "stratified", *, seed: int = 42,
                classes: Sequence[str] = (), holdout: Sequence[str] = (), folds: int = 5,
                duplicates: pd.DataFrame | None = None,
                shares: tuple[float, float] = (VALID_SHARE, TEST_SHARE)) -> dict[str, Split]:
    """Splits a table. The images of a patient, duplicates, and rows with the same `group` (a column) stay in one part.

    Args:
        table: as `read_table` returns it, or its rows.
        split: a key of `SPLITS`.
        seed: the same rows and seed give the same split, whatever the order of the rows.
        classes: every one of them must be in the training and validation parts; none: all labels of the table.
        holdout: centers that are the test part (`center_holdout` only; default: chosen, see there).
        folds: number of folds (`kfold` only), 2 or more.
        duplicates: pairs of rows that show the same picture, as `check_images` returns them; None: not checked.
        shares: of the validation part (of all images, or of those outside the test part, where that is decided
            otherwise) and of the test part, 0 to 1.

    Returns:
        The name of each fold -> its split. A way that gives one split names it "".

    Raises:
        UserError: an unknown split or center; a class or a center too small to split.
    """
    choose("split", split, SPLITS)
    table = as_table(table)
    holdout = (holdout,) if isinstance(holdout, str) else tuple(holdout)
    if holdout and split != "center_holdout":
        raise UserError(f"holdout={','.join(holdout)} has no meaning for split '{split}'. "
                        "Use it with center_holdout, or leave it out.")
    if "part" in table.rows:
        raise UserError("The table already has a column 'part', which a split would overwrite. Rename it.")
    rows = table.rows if duplicates is None else add_groups(table.rows, duplicates["a"], duplicates["b"])
    notes = [*note_no_patient(rows), *note_writings("patient", rows["patient"])]
    if duplicates is None:
        notes.append("images were not checked for duplicates")
    classes = tuple(classes) or order_classes(rows["label"])
    found = SPLITS[split](replace(table, rows=rows, notes=tuple(notes)), seed=seed, classes=classes,
                          holdout=holdout, folds=folds, shares=shares)
    return {fold: replace(result, name=split, fold=fold, left_out=table.left_out) for fold, result in found.items()}


def note_no_patient(rows: pd.DataFrame) -> list[str]:
    """Returns a note if images have no patient id; `rows` may have a column group, of duplicates and others."""
    none = rows["patient"] == ""
    if not none.any():
        return []
    in_group = "group" in rows and (rows["group"][none] != "").any()
    return [f"{none.sum()} of {len(rows)} images have no patient id: each counts as a patient of its "
            f"own{', unless it is in a group' if in_group else ''}"]


def stratified(table: Table, *, seed: int, classes: tuple[str, ...], shares: tuple[float, float],
               **_) -> dict[str, Split]:
    """70/15/15, or other shares, over all centers, with the same shares of each class and center in each part."""
    aims = (1 - shares[0] - shares[1], *shares)
    names = group_names(table.rows, across_centers=True)
    part = assign(table.rows, names, PARTS, aims, seed, classes, "the table")
    return {"": _make_split(table, part, PARTS, aims)}


def center_holdout(table: Table, *, seed: int, classes: tuple[str, ...], shares: tuple[float, float],
                   holdout: tuple[str, ...] = (), **_) -> dict[str, Split]:
    """All images of the held-out centers (default: the smallest with every class) are test; the others are 85/15 train,
    valid. Where a group (of duplicates) reaches from a held-out center into another, its images there are unused.
    """
    centers = _centers(table, "center_holdout")
    try:
        holdout = tuple(choose("center", name, centers) for name in holdout)
    except UserError as error:
        commas = " A name with a comma goes into the pipeline file: holdout: [\"NAME\"]."
        raise UserError(f"{error}{commas if any(',' in name for name in centers) else ''}") from None
    rows, notes, why = table.rows, list(table.notes), ""
    if not holdout:
        holdout = (_smallest_complete_center(rows, classes),)
        why = " (the smallest center that has every class; another: --holdout=NAME)"
    notes.append(f"held out: {', '.join(holdout)}{why}")
    held = rows["center"].isin(holdout)
    if held.all():
        raise UserError(f"holdout={','.join(holdout)} leaves no center to train on. Hold out fewer.")
    # Each hospital numbers its own patients, so the same id at two centers is taken for two people.
    both = sorted((set(rows["patient"][held]) & set(rows["patient"][~held])) - {""})
    if both:
        notes.append(f"warning: {len(both)} patient ids occur in held-out and in training centers (such as "
                     f"'{both[0]}'); they are taken for different people")
    lacking = [name for name in classes if name not in set(rows["label"][held])]
    if lacking:
        notes.append(f"warning: the held-out part has no {', '.join(lacking)} image")
    names = group_names(rows, across_centers=False)
    unused = names.isin(set(names[held])) & ~held
    if unused.any():
        notes.append(f"{int(unused.sum())} images of other centers are unused: their group reaches into the held-out "
                     f"part (such as '{rows['image'][unused].iloc[0]}')")
    rest = ~held & ~unused
    aims = (1 - shares[0], shares[0])
    # Among the training centers the same id may well be the same person, who then stays in one part.
    names = group_names(rows[rest], across_centers=True)
    training_centers = f"the centers {', '.join(sorted(set(rows['center'][rest])))}"
    part = np.where(held, "test", UNUSED).astype(object)
    part[rest] = assign(rows[rest], names, PARTS[:2], aims, seed, classes, training_centers)
    return {"": _make_split(replace(table, notes=tuple(notes)), part, PARTS[:2], aims, holdout=holdout)}


def leave_one_center_out(table: Table, *, seed: int, classes: tuple[str, ...], shares: tuple[float, float],
                         **_) -> dict[str, Split]:
    """A `center_holdout` for each center in turn; a fold is named after the center that is its test part."""
    return {center: center_holdout(table, seed=seed, classes=classes, shares=shares, holdout=(center,))[""]
            for center in _centers(table, "leave_one_center_out")}


def kfold(table: Table, *, seed: int, classes: tuple[str, ...], folds: int, shares: tuple[float, float],
          **_) -> dict[str, Split]:
    """Cross-validation: every image is in the test part of exactly one fold; 15% of the others are valid."""
    if folds < 2:
        raise UserError(f"folds={folds} is out of range: give a whole number from 2.")
    rows, names = table.rows, group_names(table.rows, across_centers=True)
    numbers = tuple(str(number) for number in range(1, folds + 1))
    try:
        fold_of = assign(rows, names, numbers, (1 / folds,) * folds, seed, classes, "the table")
    except UserError as error:
        raise UserError(f"{error} Or take fewer folds: --folds=NUMBER.") from None
    inner = (1 - shares[0], shares[0])
    aims = ((1 - 1 / folds) * inner[0], (1 - 1 / folds) * inner[1], 1 / folds)
    result = {}
    for number in numbers:
        rest = fold_of != number
        part = np.full(len(rows), "test", dtype=object)
        # Another seed for each fold: else the hash that made the folds would choose the validation part, too.
        other_seed = int(np.random.SeedSequence([seed, int(number)]).generate_state(1)[0])
        part[rest] = assign(rows[rest], names[rest], PARTS[:2], inner, other_seed, classes, f"fold {number}")
        result[number] = _make_split(table, part, PARTS, aims)
    return result


def given(table: Table, *, seed: int, classes: tuple[str, ...], shares: tuple[float, float],
          **_) -> dict[str, Split]:
    """The split that came with the images: column original_split, train, valid and test; rows without are unused.
    A part that is missing is drawn from train, a patient's images together.
    """
    rows = table.rows
    if "original_split" not in rows or (rows["original_split"] == "").all():
        raise UserError("The images came without a split: they lie in no folders train, valid and test, and no column "
                        "names their parts. Use --split=stratified.")
    part = np.array(rows["original_split"].where(rows["original_split"].isin(PARTS), UNUSED), dtype=object)
    drawn = [name for name in PARTS[1:] if not (part == name).any()]
    if not (part == "train").any() or len(drawn) == 2:
        raise UserError(f"The split that came with the images has only {', '.join(sorted({*part}))}. "
                        "Use --split=stratified.")
    notes = list(table.notes)
    for name in drawn:
        rest, share = part == "train", shares[0] if name == "valid" else shares[1]
        groups = group_names(rows[rest], across_centers=True)
        part[rest] = assign(rows[rest], groups, ("train", name), (1 - share, share), seed, classes, "the training part")
        notes.append(f"the split has no part {name}: {share:.0%} of train is taken for it")
    for name in PARTS[:2]:
        if missing := [label for label in classes if not ((part == name) & (rows["label"] == label)).any()]:
            raise UserError(f"The split that came with the images has no {', '.join(missing)} in part {name}. "
                            "Use --split=stratified.")
    return {"": Split(rows.assign(part=part), table.root, table.file, tuple(notes), table.pixels)}


SPLITS = {"stratified": stratified, "center_holdout": center_holdout, "leave_one_center_out": leave_one_center_out,
          "kfold": kfold, "given": given}
ALIASES = {"original": "given"}  # other names for them on the command line


def count_parts(split: Table | pd.DataFrame, classes: Sequence[str] = (), label_delim: str = "") -> pd.DataFrame:
    """Counts the images of each class (columns) in each part (rows; unused only if there are any)."""
    rows = as_table(split).rows
    index = [*PARTS, *([UNUSED] if (rows["part"] == UNUSED).any() else [])]
    columns = list(classes) or list(order_classes(rows["label"], label_delim))
    if label_delim:
        rows = rows.assign(label=rows["label"].map(lambda label: split_labels(label, label_delim))).explode("label")
    counts = rows.groupby(["part", "label"]).size().unstack(fill_value=0)  # pd.crosstab takes four times as long
    return counts.reindex(index=index, columns=columns, fill_value=0)


def class_shares(rows: pd.DataFrame, parts: Sequence[str]) -> pd.DataFrame:
    """Returns which share of each class (rows) is in each part (columns), of the images in these parts, 0 to 1."""
    used = rows[rows["part"].isin(parts)]
    counts = used.groupby(["label", "part"]).size().unstack(fill_value=0)
    return counts.div(counts.sum(axis=1), axis=0).reindex(columns=list(parts), fill_value=0.0)


def _make_split(table: Table, part: np.ndarray, parts: tuple[str, ...], shares: tuple[float, ...], **facts) -> Split:
    """Gives each row its part, and notes how close the parts' shares of each class come to those aimed at."""
    rows = table.rows.assign(part=part)
    found = class_shares(rows, parts)
    errors = (found - np.asarray(shares)).abs().stack()
    label, farthest = errors.idxmax()
    aim, error = f"{'/'.join(f'{100 * share:.3g}' for share in shares)}%", f"{100 * errors.max():.1f}"
    note = f"each class is split {aim}" if error == "0.0" else (
        f"shares of each class are within {error} points of {aim} (farthest: {farthest} has "
        f"{100 * found.loc[label, farthest]:.1f}% of {label})")
    return Split(rows, table.root, table.file, (*table.notes, note), table.pixels, **facts)


def _centers(table: Table, split: str) -> list[str]:
    """The centers of a table that can be split by center, sorted."""
    rows = table.rows
    if (rows["center"] == "").all() and table.of_folders:
        make = "python -m busfast prepare --source=folder"
        raise UserError(f"{split} needs the center of each image, and class folders name none. Make a table of them: "
                        f"{make} --path={quote(str(table.root))} --out=data/NAME\n"
                        "Then fill the column center of data/NAME/table.csv and train with --data=data/NAME\nWhere "
                        "each center has a folder of class folders, the column is filled by: "
                        f"{make},folder --path=A,B --center=A,B --out=data/NAME\nWithout centers: --split=stratified.")
    if (rows["center"] == "").all():
        raise UserError(f"{split} needs the center of each image, and {table.title} has no column 'center', or an "
                        "empty one. Fill it, or use --split=stratified.")
    for row, name in enumerate(rows["center"], start=2):
        if not name:
            raise UserError(f"{split}: the image of row {row} ('{rows['image'].iloc[row - 2]}') has no center. "
                            "Fill the column 'center' in every row.")
    if rows["center"].nunique() < 2:
        raise UserError(f"{split} needs two centers or more; the table has only '{rows['center'].iloc[0]}'."
                        " Use --split=stratified.")
    return sorted(set(rows["center"]))


def _smallest_complete_center(rows: pd.DataFrame, classes: tuple[str, ...]) -> str:
    sizes = rows["center"].value_counts()
    labels = rows.groupby("center")["label"].agg(set)
    complete = [name for name in sizes.index if set(classes) <= labels[name]]
    if not complete:
        raise UserError("No center has every class, so none can be chosen to be held out. Name one: --holdout="
                        f"{sizes.index[-1]} (centers: {', '.join(sorted(sizes.index))}).")
    return min(complete, key=lambda name: (sizes[name], name))
