"""A table -> train, valid and test parts, a group on one side only. Each way to split is a function in `SPLITS`."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from busfast.data.assign import assign
from busfast.data.groups import add_groups, group_names
from busfast.data.table import CLASSES
from busfast.errors import UserError, choose

PARTS = ("train", "valid", "test")
UNUSED = "unused"  # the part of rows that may be on no side
VALID_SHARE = TEST_SHARE = 0.15


def split_table(table: pd.DataFrame, split: str = "stratified", **options) -> pd.DataFrame:
    """Splits a table by a way that gives one split; arguments, result and errors are those of `split_folds`."""
    folds = split_folds(table, split, **options)
    if len(folds) > 1:
        raise UserError(f"{split} gives {len(folds)} splits: {', '.join(folds)}. Take them from split_folds.")
    return next(iter(folds.values()))


def split_folds(table: pd.DataFrame, split: str = "stratified", *, seed: int = 42, classes: Sequence[str] = CLASSES,
                holdout: Sequence[str] = (), folds: int = 5,
                duplicates: pd.DataFrame | None = None) -> dict[str, pd.DataFrame]:
    """Splits a table by the named way.

    What stays together: the images of a patient, duplicates, and rows with the same value in a column `group`.

    Args:
        table: as `read_table` returns it.
        split: a key of `SPLITS`.
        seed: same rows and seed, same split, whatever the order of the rows.
        classes: every one of them must be in the training and validation parts.
        holdout: centers that are the test part (`center_holdout` only; empty: chosen, see there).
        folds: number of folds (`kfold` only), 2 or more.
        duplicates: pairs of rows that are the same picture, as `check_images` returns them; None: they are not known.

    Returns:
        The name of each fold -> the table with a column `part`: train, valid, test or unused. A way that gives one
        split names it "". `attrs["holdout"]` names the held-out centers and `attrs["notes"]` what the user should
        know about the split.

    Raises:
        UserError: an unknown split or center; a class or a center too small to split.
    """
    choose("split", split, SPLITS)
    holdout = (holdout,) if isinstance(holdout, str) else tuple(holdout)
    if holdout and split != "center_holdout":
        raise UserError(f"holdout={','.join(holdout)} has no meaning for split '{split}'. "
                        "Use it with center_holdout, or leave it out.")
    if "part" in table:
        raise UserError("The table already has a column 'part', which a split would write over. Rename it.")
    table = table.copy() if duplicates is None else add_groups(table, duplicates["a"], duplicates["b"])
    unknown = int((table["patient"] == "").sum())
    joined = "group" in table and (table["group"][table["patient"] == ""] != "").any()
    table.attrs["notes"] = [f"{unknown} of {len(table)} images have no patient id: each is taken as a patient of its "
                            f"own{', unless it is in a group' if joined else ''}"] if unknown else []
    if duplicates is None:
        table.attrs["notes"].append("copies among the images are not known")
    table.attrs["holdout"] = []
    return SPLITS[split](table, seed=seed, classes=tuple(classes), holdout=holdout, folds=folds)


def stratified(table: pd.DataFrame, *, seed: int, classes: tuple[str, ...], **_) -> dict[str, pd.DataFrame]:
    """70/15/15 over all centers; class and center shares alike in each part."""
    shares = (1 - VALID_SHARE - TEST_SHARE, VALID_SHARE, TEST_SHARE)
    names = group_names(table, across_centers=True)
    table["part"] = assign(table, names, PARTS, shares, seed, classes, "the table")
    _note_shares(table, PARTS, shares)
    return {"": table}


def center_holdout(table: pd.DataFrame, *, seed: int, classes: tuple[str, ...], holdout: tuple[str, ...] = (),
                   **_) -> dict[str, pd.DataFrame]:
    """The held-out centers are the test part, whole; the others give train and valid, 85/15.

    Without `holdout`, the smallest center that has every class is held out. A group (of duplicates) that reaches from
    a held-out into another center is in the test part, and its images of other centers are unused.
    """
    centers = _centers(table, "center_holdout")
    try:
        holdout = tuple(choose("center", name, centers) for name in holdout)
    except UserError as error:
        commas = " A name with a comma goes into the pipeline file: holdout: [\"NAME\"]."
        raise UserError(f"{error}{commas if any(',' in name for name in centers) else ''}") from None
    notes = table.attrs["notes"]
    why = ""
    if not holdout:
        holdout = (_smallest_complete_center(table, classes),)
        why = " (the smallest center that has every class; another: --holdout=NAME)"
    notes.append(f"held out: {', '.join(holdout)}{why}")
    table.attrs["holdout"] = list(holdout)
    held = table["center"].isin(holdout)
    if held.all():
        raise UserError(f"holdout={','.join(holdout)} leaves no center to train on. Hold out fewer.")
    # Ids are given out by each hospital on its own, so the same id at two centers is taken as two people.
    both = sorted((set(table["patient"][held]) & set(table["patient"][~held])) - {""})
    if both:
        notes.append(f"warning: {len(both)} patient ids occur in held-out and in training centers (such as "
                     f"'{both[0]}'); they are taken as different people")
    lacking = [name for name in classes if name not in set(table["label"][held])]
    if lacking:
        notes.append(f"warning: the held-out part has no {', '.join(lacking)} image")
    names = group_names(table, across_centers=False)
    unused = names.isin(set(names[held])) & ~held
    if unused.any():
        notes.append(f"{int(unused.sum())} images of other centers are unused: their group reaches into the held-out "
                     f"part (such as '{table['image'][unused].iloc[0]}')")
    rest = table[~held & ~unused]
    shares = (1 - VALID_SHARE, VALID_SHARE)
    # Among the training centers the same id may well be the same person: it stays on one side.
    names = group_names(rest, across_centers=True)
    others = f"the centers {', '.join(sorted(set(rest['center'])))}"
    table["part"] = np.where(held, "test", UNUSED).astype(object)
    table.loc[rest.index, "part"] = assign(rest, names, PARTS[:2], shares, seed, classes, others)
    _note_shares(table, PARTS[:2], shares)
    return {"": table}


def leave_one_center_out(table: pd.DataFrame, *, seed: int, classes: tuple[str, ...], **_) -> dict[str, pd.DataFrame]:
    """A `center_holdout` for each center in turn; a fold is named after the center that is its test part."""
    folds = {}
    for center in _centers(table, "leave_one_center_out"):
        one = table.copy()
        folds |= {center: center_holdout(one, seed=seed, classes=classes, holdout=(center,))[""]}
    return folds


def kfold(table: pd.DataFrame, *, seed: int, classes: tuple[str, ...], folds: int, **_) -> dict[str, pd.DataFrame]:
    """Cross-validation: every image is in the test part of exactly one fold, and 15% of the rest are valid."""
    if folds < 2:
        raise UserError(f"folds={folds} is out of range: give a whole number from 2.")
    names = group_names(table, across_centers=True)
    numbers = tuple(str(number) for number in range(1, folds + 1))
    try:
        fold_of = assign(table, names, numbers, (1 / folds,) * folds, seed, classes, "the table")
    except UserError as error:
        raise UserError(f"{error} Or take fewer folds: --folds=NUMBER.") from None
    shares = (1 - VALID_SHARE, VALID_SHARE)
    result = {}
    for number in numbers:
        one = table.copy()
        rest = table[fold_of != number]
        one["part"] = "test"
        # Another seed for each fold: else the hash that made the folds would choose the validation part, too.
        parts = assign(rest, names[rest.index], PARTS[:2], shares, _derive(seed, number), classes, f"fold {number}")
        one.loc[rest.index, "part"] = parts
        _note_shares(one, PARTS, ((1 - 1 / folds) * shares[0], (1 - 1 / folds) * shares[1], 1 / folds))
        result[number] = one
    return result


SPLITS = {"stratified": stratified, "center_holdout": center_holdout, "leave_one_center_out": leave_one_center_out,
          "kfold": kfold}


def count_parts(table: pd.DataFrame, classes: Sequence[str] = CLASSES) -> pd.DataFrame:
    """Counts the images of each class (columns) in each part (rows; unused only if there are any)."""
    index = [*PARTS, *([UNUSED] if (table["part"] == UNUSED).any() else [])]
    return pd.crosstab(table["part"], table["label"]).reindex(index=index, columns=list(classes), fill_value=0)


def _derive(seed: int, number: str) -> int:
    return int(np.random.SeedSequence([seed, int(number)]).generate_state(1)[0])


def _note_shares(table: pd.DataFrame, parts: tuple[str, ...], shares: tuple[float, ...]) -> None:
    """Notes how near the parts' shares of each class come to those aimed at."""
    some = table[table["part"].isin(parts)]
    found = pd.crosstab(some["label"], some["part"], normalize="index").reindex(columns=parts, fill_value=0.0)
    off = (found - np.asarray(shares)).abs().stack()
    label, part = off.idxmax()
    aim = "/".join(f"{100 * share:.3g}" for share in shares)
    table.attrs["deviation"] = float(off.max())
    table.attrs["notes"] = [*table.attrs["notes"], f"shares of each class are within {100 * off.max():.1f} points of "
                            f"{aim}% (farthest: {part} has {100 * found.loc[label, part]:.1f}% of {label})"]


def _centers(table: pd.DataFrame, split: str) -> list[str]:
    """The centers of a table that can be split by center, sorted."""
    if (table["center"] == "").all():
        raise UserError(f"{split} needs the column 'center' in the table, and it is missing or empty. "
                        "Fill it, or use --split=stratified.")
    for row, name in enumerate(table["center"], start=2):
        if not name:
            raise UserError(f"{split}: the image of row {row} ('{table['image'].iloc[row - 2]}') has no "
                            "center. Fill the column 'center' in every row.")
    if table["center"].nunique() < 2:
        raise UserError(f"{split} needs two centers or more; the table has only '{table['center'].iloc[0]}'."
                        " Use --split=stratified.")
    return sorted(set(table["center"]))


def _smallest_complete_center(table: pd.DataFrame, classes: tuple[str, ...]) -> str:
    sizes = table["center"].value_counts()
    labels = table.groupby("center")["label"].agg(set)
    complete = [name for name in sizes.index if set(classes) <= labels[name]]
    if not complete:
        raise UserError("No center has every class, so none can be chosen to be held out. Name one: --holdout="
                        f"{sizes.index[-1]} (centers: {', '.join(sorted(sizes.index))}).")
    return min(complete, key=lambda name: (sizes[name], name))
