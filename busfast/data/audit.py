"""What is wrong with a set of images: a row for each finding, and the tables a person wants to see beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats.contingency import association

from busfast.data.duplicate_pairs import NO_DUPLICATES, audit_file, drop_different, find_duplicates, read_decisions
from busfast.data.fingerprint import fingerprint_images
from busfast.data.groups import add_groups, group_names
from busfast.data.paths import image_paths, links_out
from busfast.data.table import CLASSES
from busfast.text import counted

COLUMNS = ["finding", "image", "other", "similarity", "differs", "detail", "decision"]
TINY = 64  # pixels; a shorter side below this shows a thumbnail or an icon, not an examination
MISSING = "no such file"
FLAGS = ("marks", "doppler", "combined")  # columns in which a source says what is burned into an image
YES = ("yes", "true", "1", "y")


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        table: the audited table, with a column `group` that joins patients and copies.
        findings: a row a finding; columns finding, image, other, similarity, differs (what differs between image and
            other: label, patient, center), detail, decision (for a person to fill).
        confounding: images of each class (columns) at each center (rows); empty without centers.
        cramers_v: how well the center predicts the class, 0 (not) to 1 (wholly); NaN if that has no meaning.
        by_center, by_class: share of images whose class is right if one guesses the commonest class of the center, or
            of the whole set.
        sizes: for each center: images, median and range of width and height, kinds and bits of the files.
        flags: for each flag and class: share of images that have it, of those where the source says so.
    """

    table: pd.DataFrame
    findings: pd.DataFrame
    confounding: pd.DataFrame
    cramers_v: float
    by_center: float
    by_class: float
    sizes: pd.DataFrame
    flags: pd.DataFrame


def audit_images(table: pd.DataFrame, classes: Sequence[str] = CLASSES, *,
                 decisions: dict[frozenset, str] | None = None,
                 metadata_only: bool = False) -> tuple[Audit, pd.DataFrame]:
    """Looks at every image of a table and audits it; what is wrong is a finding, and nothing is refused.

    Args:
        table: as `read_table` returns it.
        classes: the labels that are meant; others that the table has come after them.
        decisions: as `read_decisions` returns them; None: those of the audit that was written about this table.
        metadata_only: open no image.

    Returns:
        The audit, and the pairs of copies as `split_table` takes them.

    Raises:
        UserError: the decisions cannot be read.
    """
    if decisions is None:
        decisions = read_decisions(audit_file(table.attrs["file"]))
    prints = None if metadata_only else fingerprint_images(image_paths(table))
    pairs = NO_DUPLICATES if metadata_only else find_duplicates(table, prints)
    duplicates = drop_different(pairs, decisions)
    grouped = add_groups(table, duplicates["a"], duplicates["b"])
    classes = [*classes, *sorted(set(table["label"]) - set(classes))]
    links = {} if metadata_only else links_out(table)
    return audit_table(grouped, prints, pairs, decisions, classes, links), duplicates


def audit_table(table: pd.DataFrame, prints: pd.DataFrame | None, duplicates: pd.DataFrame,
                decisions: dict[frozenset, str] | None = None, classes: Sequence[str] = CLASSES,
                links: Mapping[str, str] | None = None) -> Audit:
    """Audits a table and what is known of its images.

    Args:
        table: with a column `group`, as `add_groups` returns it.
        prints: fingerprints of the images, in order; None: no image was looked at.
        duplicates: as `find_duplicates` returns them.
        decisions: as `read_decisions` returns them; they are kept, also those on pairs that are found no more.
        classes: the labels, in the order of the tables.
        links: image -> where a symbolic link leads out of the data folder.

    Returns:
        The audit.
    """
    rows = []
    if prints is not None:
        rows += _broken(table, prints)
    confounding, v, by_center, by_class = confound(table, classes)
    rows += [("link out of the folder", image, "", "", "", f"leads to {target}")
             for image, target in (links or {}).items()]
    rows += _pairs(table, duplicates) + _patients(table) + _classes(table, confounding, classes)
    decisions = decisions or {}
    found = {frozenset(row[1:3]) for row in rows}
    rows += [("decided before", *sorted(pair), "", "", "") for pair in decisions if pair not in found]
    findings = pd.DataFrame(rows, columns=COLUMNS[:-1])
    findings["decision"] = [decisions.get(frozenset(pair), "") if pair[1] else ""
                            for pair in zip(findings["image"], findings["other"], strict=True)]
    sizes = pd.DataFrame() if prints is None else _sizes(table, prints)
    return Audit(table, findings, confounding, v, by_center, by_class, sizes, _flags(table, classes))


def confound(table: pd.DataFrame, classes: Sequence[str]) -> tuple[pd.DataFrame, float, float, float]:
    """Tells how well the center predicts the class.

    Returns:
        Images of each class (columns) at each center (rows); Cramer's V of that table; the share of right guesses
        with the commonest class of each center; and with the commonest class of all.

    Source: Cramer 1946, Mathematical Methods of Statistics, chapter 21; here by SciPy.
    """
    known = table[table["center"] != ""]
    counts = pd.crosstab(known["center"], known["label"])
    counts = counts.reindex(columns=[name for name in classes if name in counts])
    if counts.empty:
        return counts, np.nan, np.nan, np.nan
    v = association(counts.to_numpy(), method="cramer") if min(counts.shape) > 1 else np.nan
    total = counts.to_numpy().sum()
    return counts, float(v), counts.max(axis=1).sum() / total, counts.sum().max() / total


def count_findings(findings: pd.DataFrame) -> list[tuple[str, str]]:
    """Says how often there is each finding, in words, those of pairs with what differs."""
    different = int((findings["decision"] == "different").sum())
    findings = findings[findings["decision"] != "different"]
    lines = [("decided to be different", counted(different, "pair"))] if different else []
    for finding, rows in findings.groupby("finding", sort=False):
        pairs = rows["other"] != ""
        text = counted(len(rows), "pair") if pairs.all() else f"{len(rows)}"
        if pairs.all():
            differ = [(name, int(rows["differs"].str.contains(name).sum())) for name in ("label", "patient", "center")]
            text += "".join(f", {count} of different {name}s" for name, count in differ if count)
        lines.append((finding, text))
    return lines


def _broken(table: pd.DataFrame, prints: pd.DataFrame) -> list[tuple]:
    rows: dict[str, list[tuple]] = {"missing": [], "unreadable": [], "constant": [], "tiny": []}
    for image, row in zip(table["image"], prints.itertuples(), strict=True):
        if row.reason == MISSING:
            rows["missing"].append(("missing", image, "", "", "", row.reason))
        elif row.reason:
            rows["unreadable"].append(("unreadable", image, "", "", "", row.reason))
        elif row.low == row.high:
            rows["constant"].append(("constant", image, "", "", "", f"every pixel is {row.low}"))
        elif min(row.width, row.height) < TINY:
            rows["tiny"].append(("tiny", image, "", "", "", f"{row.width} x {row.height} pixels"))
    return [row for kind in rows.values() for row in kind]


def _pairs(table: pd.DataFrame, duplicates: pd.DataFrame) -> list[tuple]:
    rows = []
    label, patient, center = (table[name].to_numpy() for name in ("label", "patient", "center"))
    for pair in duplicates.itertuples():
        a, b = pair.a, pair.b
        differs = [name for name, values in (("label", label), ("center", center)) if values[a] != values[b]]
        if patient[a] and patient[b] and (patient[a] != patient[b] or center[a] != center[b]):
            differs.append("patient")
        detail = f"{_who(label[a], patient[a], center[a])} | {_who(label[b], patient[b], center[b])}"
        rows.append((pair.kind, pair.image, pair.other, round(float(pair.similarity), 3), ", ".join(sorted(differs)),
                     detail + (" | mirrored" if pair.mirrored else "")))
    # What a person should decide comes first: other labels, other patients, then the most alike.
    return sorted(rows, key=lambda row: (row[0], "label" not in row[4], "patient" not in row[4], -row[3]))


def _who(label: str, patient: str, center: str) -> str:
    return ", ".join(part for part in (label, f"patient {patient}" if patient else "patient unknown", center) if part)


def _patients(table: pd.DataFrame) -> list[tuple]:
    rows = []
    known = table[table["patient"] != ""]
    for finding, column, by in (("patient with several labels", "label", ["center", "patient"]),
                                ("patient id at several centers", "center", ["patient"])):
        several = known.groupby(by)[column].nunique()
        several = set(several.index[several > 1])
        keys = pd.MultiIndex.from_frame(known[by]) if len(by) > 1 else known[by[0]]
        some = known[keys.isin(several)] if several else known[:0]
        for key, images in some.groupby(by if len(by) > 1 else by[0]):
            counts = images[column].value_counts().sort_index()
            name = key if isinstance(key, str) else f"{key[1]} of {key[0]}" if key[0] else key[1]
            rows.append((finding, images["image"].iloc[0], "", "", "", f"patient {name}: " + ", ".join(
                f"{count} {value or 'no center'}" for value, count in counts.items())))
    return rows


def _classes(table: pd.DataFrame, counts: pd.DataFrame, classes: Sequence[str]) -> list[tuple]:
    rows = [("class missing", "", "", "", "", f"there is no {label} image") for label in classes
            if label not in set(table["label"])]
    return rows + [("class missing at a center", "", "", "", "", f"{center} has no {label} image")
            for center in counts.index for label in counts.columns if not counts.loc[center, label]]


def _sizes(table: pd.DataFrame, prints: pd.DataFrame) -> pd.DataFrame:
    readable = (prints["reason"] == "").to_numpy()
    rows = []
    centers = table["center"].where(table["center"] != "", "(unknown)").to_numpy()
    for center in sorted(set(centers)):
        some = prints[readable & (centers == center)]
        if len(some):
            rows.append({"center": center, "images": len(some), **{
                side: f"{int(some[side].median())} ({some[side].min()} to {some[side].max()})"
                for side in ("width", "height")}, "kind": ", ".join(
                    f"{mode} bits: {count}" for mode, count in some["mode"].value_counts().items())})
    return pd.DataFrame(rows)


def _flags(table: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    rows = []
    for flag in (name for name in FLAGS if name in table):
        known = table[table[flag] != ""]
        shares = known[flag].str.lower().isin(YES).groupby(known["label"]).mean()
        if len(shares):
            rows.append({"flag": flag, "images": len(known), **{
                label: round(float(shares[label]), 3) for label in classes if label in shares}})
    return pd.DataFrame(rows)


def format_groups(table: pd.DataFrame) -> str:
    """Says in words how many groups there are and how large the largest is."""
    sizes = group_names(table, across_centers=False).value_counts()
    return f"{len(sizes)} groups (patients and copies joined), the largest of {sizes.iloc[0]} images"
