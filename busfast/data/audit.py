"""Audits a set of images: a row per finding, and the summary tables that explain them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats.contingency import association

from busfast.data.duplicate_pairs import NO_DUPLICATES, audit_file, drop_different, find_duplicates, read_decisions
from busfast.data.fingerprint import CUT, fingerprint_images
from busfast.data.groups import add_groups, group_names
from busfast.data.labels import several_writings
from busfast.data.paths import links_out
from busfast.data.table import CLASSES, Table
from busfast.text import counted

# Of audit.csv. `differs`: what differs between image and other (label, patient, center). A person fills in `decision`.
COLUMNS = ["finding", "image", "other", "similarity", "differs", "detail", "decision"]
TINY = 64  # pixels; an image with a shorter side is probably a thumbnail or an icon
MISSING = "no such file"
FLAGS = ("marks", "doppler", "combined")  # columns in which a source says what is burned into an image
YES = ("yes", "true", "1", "y")


@dataclass(frozen=True)
class Audit:
    """The result of an audit."""

    table: pd.DataFrame  # the audited table, with a column `group` that joins patients and duplicates
    findings: pd.DataFrame  # a row per finding, see COLUMNS
    confounding: pd.DataFrame  # number of images per center (rows) and class (columns); empty without centers
    cramers_v: float  # association of center and class, 0 (independent) to 1; NaN if undefined
    by_center: float  # accuracy of guessing the most common class of the center
    by_class: float  # accuracy of guessing the most common class of the whole set
    sizes: pd.DataFrame  # per center: number of images, median and range of width and height, modes of the files
    flags: pd.DataFrame  # per flag and class: share of flagged images, of those where the source says so
    root: Path = Path()  # folder that the paths of images are relative to


def audit_images(table: Table, classes: Sequence[str] = CLASSES, *,
                 decisions: dict[frozenset, str] | None = None,
                 metadata_only: bool = False) -> tuple[Audit, pd.DataFrame]:
    """Reads every image of a table and audits it; returns the audit, and the pairs of duplicates for `split_table`.

    Problems become findings, not errors. Labels that are none of `classes` follow them; `decisions` (default: those of
    the table's last audit) are as `read_decisions` returns them.
    """
    if decisions is None:
        decisions = read_decisions(audit_file(table.file))
    prints = None if metadata_only else fingerprint_images(table.image_paths())
    pairs = NO_DUPLICATES if metadata_only else find_duplicates(table.rows, prints)
    duplicates = drop_different(pairs, decisions)
    rows = add_groups(table.rows, duplicates["a"], duplicates["b"])
    classes = [*classes, *sorted(set(rows["label"]) - set(classes))]
    links = {} if metadata_only else links_out(table.root, rows["image"])
    return audit_table(rows, prints, pairs, decisions, classes, links, table.root), duplicates


def audit_table(table: pd.DataFrame, prints: pd.DataFrame | None, duplicates: pd.DataFrame,
                decisions: Mapping[frozenset, str] | None = None, classes: Sequence[str] = CLASSES,
                links: Mapping[str, str] | None = None, root: Path = Path()) -> Audit:
    """Audits a table with a column `group`, given the fingerprints (None: not read) and duplicates of its images.
    `links`: image -> target of a symbolic link that leads out of the data folder.
    """
    decisions = decisions or {}
    confounding, v, by_center, by_class = confound(table, classes)
    rows = [] if prints is None else _unusable_images(table, prints)
    rows += [("link out of the folder", image, "", "", "", f"leads to {target}")
             for image, target in (links or {}).items()]
    rows += _duplicates(table, duplicates) + _patients(table) + _writings(table) + _classes(table, confounding, classes)
    pairs = {frozenset(row[1:3]) for row in rows}
    rows += [("decided before", *sorted(pair), "", "", "") for pair in decisions if pair not in pairs]
    findings = pd.DataFrame(rows, columns=COLUMNS[:-1])
    findings["decision"] = [decisions.get(frozenset((image, other)), "") if other else ""
                            for image, other in zip(findings["image"], findings["other"], strict=True)]
    sizes = pd.DataFrame() if prints is None else _sizes(table, prints)
    return Audit(table, findings, confounding, v, by_center, by_class, sizes, _flags(table, classes), root)


def confound(table: pd.DataFrame, classes: Sequence[str]) -> tuple[pd.DataFrame, float, float, float]:
    """Returns images per center (rows) and class (columns); Cramer's V of that table; and the accuracy of guessing the
    most common class of each center, and the most common one overall. Source: Cramer 1946, Mathematical Methods of
    Statistics, chapter 21.
    """
    with_center = table[table["center"] != ""]
    counts = pd.crosstab(with_center["center"], with_center["label"])
    counts = counts.reindex(columns=[name for name in classes if name in counts])
    if counts.empty:
        return counts, np.nan, np.nan, np.nan
    v = association(counts.to_numpy(), method="cramer") if min(counts.shape) > 1 else np.nan
    total = counts.to_numpy().sum()
    return counts, float(v), counts.max(axis=1).sum() / total, counts.sum().max() / total


def count_findings(findings: pd.DataFrame) -> list[tuple[str, str]]:
    """Returns each kind of finding with its count as text; for pairs also how many differ in what."""
    different = int((findings["decision"] == "different").sum())
    findings = findings[findings["decision"] != "different"]
    lines = [("decided to be different", counted(different, "pair"))] if different else []
    for finding, rows in findings.groupby("finding", sort=False):
        if (rows["other"] == "").any():
            lines.append((finding, f"{len(rows)}"))
            continue
        counts = [(name, int(rows["differs"].str.contains(name).sum())) for name in ("label", "patient", "center")]
        lines.append((finding, counted(len(rows), "pair")
                      + "".join(f", {count} of different {name}s" for name, count in counts if count)))
    return lines


def format_groups(table: pd.DataFrame) -> str:
    """Returns the number of groups and the size of the largest as text."""
    sizes = group_names(table, across_centers=False).value_counts()
    return f"{len(sizes)} groups (patients and duplicates joined), the largest of {sizes.iloc[0]} images"


def _unusable_images(table: pd.DataFrame, prints: pd.DataFrame) -> list[tuple]:
    kinds: dict[str, list[tuple[str, str]]] = {"missing": [], "unreadable": [], "constant": [], "tiny": [],
                                              "several pages, the first used": [], "cut off": []}
    for image, row in zip(table["image"], prints.itertuples(), strict=True):
        if row.reason:
            kinds["missing" if row.reason == MISSING else "unreadable"].append((image, row.reason))
            continue
        if row.note:
            kinds["cut off" if row.note == CUT else "several pages, the first used"].append(
                (image, row.note + ("; all pixels before it are there" if row.note == CUT else "")))
        if row.low == row.high:
            kinds["constant"].append((image, f"every pixel is {row.low}"))
        elif min(row.width, row.height) < TINY:
            kinds["tiny"].append((image, f"{row.width} x {row.height} pixels"))
    return [(kind, image, "", "", "", detail) for kind, images in kinds.items() for image, detail in images]


def _duplicates(table: pd.DataFrame, duplicates: pd.DataFrame) -> list[tuple]:
    rows = []
    label, patient, center = (table[name].to_numpy() for name in ("label", "patient", "center"))
    for pair in duplicates.itertuples():
        a, b = pair.a, pair.b
        differs = [name for name, values in (("center", center), ("label", label)) if values[a] != values[b]]
        if patient[a] and patient[b] and (patient[a] != patient[b] or center[a] != center[b]):
            differs.append("patient")
        detail = " | ".join(_describe(label[row], patient[row], center[row]) for row in (a, b))
        rows.append((pair.kind, pair.image, pair.other, round(float(pair.similarity), 3), ", ".join(differs),
                     detail + (" | mirrored" if pair.mirrored else "")))
    # Those to decide on come first: different labels, different patients, then the most similar.
    return sorted(rows, key=lambda row: (row[0], "label" not in row[4], "patient" not in row[4], -row[3]))


def _describe(label: str, patient: str, center: str) -> str:
    return ", ".join(part for part in (label, f"patient {patient}" if patient else "patient unknown", center) if part)


def _patients(table: pd.DataFrame) -> list[tuple]:
    """Patients with several labels, and patient ids that occur at several centers."""
    rows = []
    with_patient = table[table["patient"] != ""]
    for finding, column, keys in (("patient with several labels", "label", ["center", "patient"]),
                                  ("patient id at several centers", "center", ["patient"])):
        several = with_patient.groupby(keys)[column].transform("nunique") > 1
        for (*center, patient), images in with_patient[several].groupby(keys):
            name = f"{patient} of {center[0]}" if center and center[0] else patient
            counts = images[column].value_counts().sort_index()
            rows.append((finding, images["image"].iloc[0], "", "", "", f"patient {name}: " + ", ".join(
                f"{count} {value or 'no center'}" for value, count in counts.items())))
    return rows


def _writings(table: pd.DataFrame) -> list[tuple]:
    """Patients of a center, centers and labels that may be one in several writings, and are treated as different."""
    rows = []
    for name, parts in (("patient", table.groupby("center", sort=False)), ("center", [("", table)]),
                        ("label", [("", table)])):
        for place, part in parts:
            counts, first = part[name].value_counts(), part.groupby(name, sort=False)["image"].first()
            for group in several_writings(part[name]):
                shown = ", ".join(f"'{one}' ({counted(int(counts[one]), 'image')})" for one in group)
                rows.append((f"{name} in several writings", first[group[0]], "", "", "",
                             f"{shown}{f' of {place}' if place else ''}: one {name}, or {len(group)}?"))
    return rows


def _classes(table: pd.DataFrame, counts: pd.DataFrame, classes: Sequence[str]) -> list[tuple]:
    rows = [("class missing", "", "", "", "", f"there is no {label} image") for label in classes
            if label not in set(table["label"])]
    return rows + [("class missing at a center", "", "", "", "", f"{center} has no {label} image")
                   for center in counts.index for label in counts.columns if not counts.loc[center, label]]


def _sizes(table: pd.DataFrame, prints: pd.DataFrame) -> pd.DataFrame:
    readable = prints.assign(center=table["center"].replace("", "(unknown)").to_numpy())[prints["reason"] == ""]
    rows = []
    for center, images in readable.groupby("center"):
        sides = {side: f"{int(images[side].median())} ({images[side].min()} to {images[side].max()})"
                 for side in ("width", "height")}
        kinds = [f"{mode} bits: {count}" for mode, count in images["mode"].value_counts().items()]
        rows.append({"center": center, "images": len(images), **sides, "kind": ", ".join(kinds)})
    return pd.DataFrame(rows)


def _flags(table: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    rows = []
    for flag in (name for name in FLAGS if name in table):
        flagged = table[table[flag] != ""]
        shares = flagged[flag].str.lower().isin(YES).groupby(flagged["label"]).mean()
        if len(shares):
            rows.append({"flag": flag, "images": len(flagged), **{
                label: round(float(shares[label]), 3) for label in classes if label in shares}})
    return pd.DataFrame(rows)
