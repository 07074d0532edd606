"""A table -> train, valid and test parts, with a patient on one side only. Written down, editable, reread."""

from pathlib import Path

import numpy as np
import pandas as pd

from busfast.data.table import CLASSES, read_rows
from busfast.errors import UserError, choose
from busfast.files import atomic

PARTS = ("train", "valid", "test")
VALID_SHARE = TEST_SHARE = 0.15
COLUMNS = ["image", "label", "center", "patient", "device", "mask", "part"]


def split_table(table: pd.DataFrame, split: str = "stratified", *, seed: int = 42,
                classes: tuple[str, ...] = CLASSES, holdout: tuple[str, ...] = ()) -> pd.DataFrame:
    """Splits a table by the named way.

    Args:
        table: as `read_table` returns it.
        split: a key of `SPLITS`.
        seed: same table and seed, same split.
        classes: every one of them must be in the training and validation parts.
        holdout: centers that are the test part (`center_holdout` only; empty: chosen, see there).

    Returns:
        The table with a column `part`: train, valid or test. `attrs["holdout"]` names the held-out centers and
        `attrs["notes"]` what the user should know about the split.

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
    table = table.copy()
    table.attrs["notes"] = _patient_notes(table)
    table.attrs["holdout"] = []
    return SPLITS[split](table, seed=seed, classes=tuple(classes), holdout=holdout)


def stratified(table: pd.DataFrame, *, seed: int, classes: tuple[str, ...],
               holdout: tuple[str, ...] = ()) -> pd.DataFrame:
    """70/15/15 over all centers; class and center shares alike in each part."""
    shares = (1 - VALID_SHARE - TEST_SHARE, VALID_SHARE, TEST_SHARE)
    table["part"] = _assign(table, PARTS, shares, seed, classes, "the table")
    return table


def center_holdout(table: pd.DataFrame, *, seed: int, classes: tuple[str, ...],
                   holdout: tuple[str, ...] = ()) -> pd.DataFrame:
    """The held-out centers are the test part; the others give train and valid, 85/15.

    Without `holdout`, the smallest center that has every class is held out.
    """
    _check_centers(table)
    centers = sorted(set(table["center"]))
    try:
        holdout = tuple(choose("center", name, centers) for name in holdout)
    except UserError as error:
        commas = " A name with a comma goes into the pipeline file: holdout: [\"NAME\"]."
        raise UserError(f"{error}{commas if any(',' in name for name in centers) else ''}") from None
    if not holdout:
        holdout = (_smallest_complete_center(table, classes),)
        table.attrs["notes"].append(f"held out: {holdout[0]} (the smallest center that has every class; "
                                    "another: --holdout=NAME)")
    table.attrs["holdout"] = list(holdout)
    held = table["center"].isin(holdout)
    if held.all():
        raise UserError(f"holdout={','.join(holdout)} leaves no center to train on. Hold out fewer.")
    # Ids are given out by each hospital on its own, so the same id at two centers is taken as two people.
    both = sorted((set(table["patient"][held]) & set(table["patient"][~held])) - {""})
    if both:
        table.attrs["notes"].append(f"warning: {len(both)} patient ids occur in held-out and in training centers "
                                    f"(such as '{both[0]}'); they are taken as different people")
    lacking = [name for name in classes if name not in set(table["label"][held])]
    if lacking:
        table.attrs["notes"].append(f"warning: the held-out part has no {', '.join(lacking)} image")
    rest = table[~held]
    shares = (1 - VALID_SHARE, VALID_SHARE)
    others = f"the centers {', '.join(sorted(set(rest['center'])))}"
    table["part"] = "test"
    table.loc[~held, "part"] = _assign(rest, PARTS[:2], shares, seed, classes, others)
    return table


SPLITS = {"stratified": stratified, "center_holdout": center_holdout}


def write_split(table: pd.DataFrame, path: str | Path) -> None:
    """Writes the split as CSV: a row an image, with its part."""
    with atomic(Path(path)) as file:
        table[COLUMNS].to_csv(file, index=False)


def read_split(path: str | Path, root: str | Path) -> pd.DataFrame:
    """Reads a split file back; `root` is the folder that its image paths are relative to.

    Raises:
        UserError: as `read_rows`, or a part is none of train, valid, test.
    """
    header, rows = read_rows(Path(path), ("image", "label", "part"))
    table = pd.DataFrame([cells for _, cells in rows], columns=header, dtype=object)
    for (row, _), part in zip(rows, table["part"], strict=True):
        if part not in PARTS:
            raise UserError(f"{path}, row {row}, column part: '{part}' is none of {', '.join(PARTS)}.")
    table.attrs["root"] = str(root)
    return table


def count_parts(table: pd.DataFrame, classes: tuple[str, ...] = CLASSES) -> pd.DataFrame:
    """Counts the images of each class (columns) in each part (rows)."""
    return pd.crosstab(table["part"], table["label"]).reindex(index=PARTS, columns=list(classes), fill_value=0)


def _patient_notes(table: pd.DataFrame) -> list[str]:
    unknown = int((table["patient"] == "").sum())
    if not unknown:
        return []
    return [f"{unknown} of {len(table)} images have no patient id: each is taken as a patient of its own"]


def _groups(table: pd.DataFrame) -> pd.Series:
    """What must not straddle parts: the patient id (within its table), or the image where none is known."""
    alone = "image " + table["image"]
    return ("patient " + table["patient"]).where(table["patient"] != "", alone)


def _check_centers(table: pd.DataFrame) -> None:
    if (table["center"] == "").all():
        raise UserError("center_holdout needs the column 'center' in the table, and it is missing or empty. "
                        "Fill it, or use --split=stratified.")
    for row, name in enumerate(table["center"], start=2):
        if not name:
            raise UserError(f"center_holdout: the image of row {row} ('{table['image'].iloc[row - 2]}') has no "
                            "center. Fill the column 'center' in every row.")
    if table["center"].nunique() < 2:
        raise UserError(f"center_holdout needs two centers or more; the table has only '{table['center'].iloc[0]}'."
                        " Use --split=stratified.")


def _smallest_complete_center(table: pd.DataFrame, classes: tuple[str, ...]) -> str:
    sizes = table["center"].value_counts()
    labels = table.groupby("center")["label"].agg(set)
    complete = [name for name in sizes.index if set(classes) <= labels[name]]
    if not complete:
        raise UserError("No center has every class, so none can be chosen to be held out. Name one: --holdout="
                        f"{sizes.index[-1]} (centers: {', '.join(sorted(sizes.index))}).")
    return min(complete, key=lambda name: (sizes[name], name))


def _assign(table: pd.DataFrame, parts: tuple[str, ...], shares: tuple[float, ...], seed: int,
            classes: tuple[str, ...], where: str) -> np.ndarray:
    """Gives each patient to a part so that class, and class-by-center, shares come out alike.

    Greedy: patients in a seeded order, the largest first; each goes where it lessens the squared distance to
    the parts' target counts most. Then a part that lacks a class gets the smallest patient that has it.
    """
    groups, names = pd.factorize(_groups(table))
    labels, label_names = pd.factorize(table["label"], sort=True)
    strata = table.groupby(["label", "center"]).ngroup().to_numpy()
    counts = np.zeros((len(names), len(label_names) + strata.max() + 1))
    np.add.at(counts, (groups, labels), 1)
    np.add.at(counts, (groups, len(label_names) + strata), 1)
    _check_enough(table, groups, parts, classes, where)

    target = np.outer(shares, counts.sum(axis=0))
    filled = np.zeros_like(target)
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    part_of = np.empty(len(names), dtype=int)
    for group in order:
        gain = (((filled + counts[group] - target) ** 2 - (filled - target) ** 2) / target).sum(axis=1)
        part_of[group] = gain.argmin()
        filled[part_of[group]] += counts[group]

    size = counts.sum(axis=1)
    has = np.stack([np.bincount(groups[(table["label"] == label).to_numpy()], minlength=len(names)) > 0
                    for label in classes], axis=1)
    for column in range(len(classes)):
        for part in range(len(parts)):
            held = np.stack([has[part_of == one].sum(axis=0) for one in range(len(parts))])
            if not held[part, column]:
                # Of the part with most patients of this class, the smallest; nobody who is the last of a class there.
                spare = (~has | (held[part_of] > 1)).all(axis=1)
                candidates = np.flatnonzero(has[:, column] & spare)
                if len(candidates):
                    donors = part_of[candidates]
                    part_of[candidates[np.lexsort((size[candidates], donors, -held[donors, column]))[0]]] = part
    result = np.array(parts)[part_of][groups]
    for part in parts:
        missing = set(classes) - set(table["label"][result == part])
        if missing:
            raise UserError(f"Too few patients in {where} to give every part every class: {part} has no "
                            f"{', '.join(sorted(missing))}. Add images of more patients of that class.")
    return result


def _check_enough(table: pd.DataFrame, groups: np.ndarray, parts: tuple[str, ...], classes: tuple[str, ...],
                  where: str) -> None:
    for label in classes:
        patients = len(set(groups[(table["label"] == label).to_numpy()]))
        if patients < len(parts):
            raise UserError(
                f"Class '{label}' has {patients} patients in {where}; the parts {', '.join(parts)} need at least "
                f"{len(parts)}. Add images of more patients, hold out another center, or name other classes in the "
                "pipeline file (classes: [...]).")
