"""The folds of a k-fold split, trained -> labels that are probably wrong, for a person to decide on."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from busfast.csvfile import write_csv
from busfast.data.audit_page import check_page
from busfast.data.duplicate_pairs import audit_file, drop_different, find_duplicates, read_decisions
from busfast.data.duplicates import most_similar
from busfast.data.fingerprint import fingerprint_images
from busfast.data.label_decisions import FILE, read_label_decisions
from busfast.data.label_page import MOST, Neighbor, write_page
from busfast.data.open_data import find_data, hash_data
from busfast.data.paths import claim_home, home_of
from busfast.data.split_file import check_unchanged, read_split
from busfast.data.table import Table
from busfast.errors import UserError
from busfast.files import make_folder
from busfast.results.predictions import arrays, predict_parts, read_history, read_predictions, require_single_label
from busfast.results.run_groups import find_groups
from busfast.results.written import FORMAT
from busfast.text import counted, listed
from busfast.training.runs import Run, all_runs, find_run

COLUMNS = ["image", "given", "suggested", "p_given", "p_suggested", "reason", "decision"]
REASONS = ("identical", "near-duplicate", "model", "")  # in this order; how the column reason begins
NEIGHBORS = 3


def find_folds(name: str) -> list[Run]:
    """Returns all folds of a k-fold split, by the name of their group or of one of them.

    Raises:
        UserError: there is no such run, it is no fold, or other folds of it are not finished.
    """
    groups = {group.name: group for group in find_groups(all_runs()) if group.kind == "folds"}
    group = groups.get(name)
    if group is None:
        if inside := [one for one in groups if one.startswith(f"{name}/")]:
            raise UserError(f"'{name}' is a pipeline. Name one of its groups of folds: {listed(inside)}.")
        run = find_run(name)
        config, record = run.read_config()
        if record.get("split") != "kfold" or record.get("members"):
            raise UserError(f"{name} is no fold of a k-fold split, so its model has seen most images. Name one that is "
                            f"(groups here: {', '.join(groups) or 'none'}), or train the folds: python -m busfast "
                            f"audit --labels {shlex.quote(f'--data={config.data}')}")
        group = next((group for group in groups.values() if run in group.runs), None)
    if group is None or len(group.runs) < group.expected:
        number = f"{len(group.runs)} of {group.expected}" if group else "none or one"
        raise UserError(f"Of the folds that belong to {name}, {number} are finished (the latest with one table, seed "
                        "and recipe), so they do not cover the set: some images have no model that did not see them. "
                        "Train the others (train --split=kfold --resume).")
    return list(group.runs)


def audit_labels(runs: Sequence[Run], out: str | None = None) -> None:
    """Writes labels.csv and labels.html: the labels that a k-fold split's models contradict, the least likely first.

    Each image is judged by the one fold that has it in its test part. That model was not trained on it, nor was its
    epoch chosen by it, so validation parts are not used. Decisions that labels.csv has already are kept.

    Args:
        runs: all folds of a k-fold split.
        out: the folder to write to. Default: that of the audit of the set.

    Raises:
        UserError: the folds do not cover the set, the table or an image was changed since they were trained, or
            labels.csv has a wrong decision.
    """
    config, record = runs[0].read_config()
    require_single_label(config, "audit of labels")
    table_file, classes = find_data(config.data), config.classes
    if hash_data(config.data) != record["table_sha256"]:
        raise UserError(f"{table_file} was changed since {runs[0].name} was trained. Restore it, or train the folds "
                        f"again: python -m busfast audit --labels {shlex.quote(f'--data={config.data}')}")
    folder = Path(out) if out else home_of(table_file) / "audit"
    decisions = read_label_decisions(folder / FILE, classes)
    check_page(page := folder / "labels.html")
    looks = [len(read_history(run)) for run in runs]
    rows = _predict(runs, table_file.parent, classes)
    looked = sum(len(read_history(run)) > before for run, before in zip(runs, looks, strict=True))
    prints = fingerprint_images(Table(rows, table_file.parent).image_paths())
    copies = drop_different(find_duplicates(rows, prints), read_decisions(audit_file(table_file)))
    found = find_issues(rows, classes, copies, decisions)
    suspects = found[found["reason"] != ""]
    if not out:
        claim_home(table_file)
    make_folder(folder)
    write_csv(found, folder / FILE, float_format=FORMAT)
    right, often = (rows["predicted"] == rows["label"]).mean(), rows["label"].value_counts(normalize=True)
    summary = (f"{len(suspects)} of {counted(len(rows), 'label')} may be wrong; decided: "
               f"{(found['decision'] != '').sum()}. The models predict {right:.0%} of the labels; the weaker they are, "
               "the more right labels they suspect"
               + (f". That is no better than guessing (always {often.index[0]}: {often.iloc[0]:.0%}): this list means "
                  "nothing yet, but for copies under several labels. Train the folds longer"
                  if right <= often.iloc[0] else ""))
    write_page(page, table_file.parent, summary, suspects, _neighbors(rows, prints, suspects["image"][:MOST]))
    print(f"labels of {table_file.parent}: {summary}")
    counts = suspects[suspects["given"] != suspects["suggested"]].value_counts(["given", "suggested"])
    for (given, suggested), count in counts.items():
        print(f"  {count:5} {given}, perhaps {suggested}")
    if looked:
        print(f"This was a look at the test part of {counted(looked, 'fold')}; evaluation.yaml of each counts it.")
    print(f"wrote {folder / FILE}\nwrote {page}")
    if not out:  # train reads no other
        print(f"Write drop, keep or the right label into the column decision of {FILE}: train heeds it in the training "
              "and validation parts.")


def _predict(runs: Sequence[Run], root: Path, classes: Sequence[str]) -> pd.DataFrame:
    """Returns the predictions of each image by the fold that has it in its test part."""
    splits = [read_split(run.results / "split.csv", root) for run in runs]
    tested = pd.concat([split.only("test").rows for split in splits])["image"]
    often = tested.value_counts().reindex(sorted(set().union(*(split.rows["image"] for split in splits))), fill_value=0)
    if len(wrong := often[often != 1]):
        raise UserError(f"The folds of {runs[0].name} do not cover the set: {wrong.index[0]} is in the test part of "
                        f"{wrong.iloc[0]} of them ({counted(len(wrong), 'such image')}). A split.csv was changed: "
                        "restore it, or train the folds again.")
    parts = []
    for run, split in zip(runs, splits, strict=True):
        check_unchanged(run.name, split.only("test"))
        predict_parts(run)
        parts.append(read_predictions(run, classes).query("part == 'test'"))
    return pd.concat(parts, ignore_index=True)


def find_issues(rows: pd.DataFrame, classes: Sequence[str], copies: pd.DataFrame,
                decisions: Mapping[str, str]) -> pd.DataFrame:
    """Returns the suspected labels, `COLUMNS`, and below them what else was decided on earlier.

    Copies of one picture under several labels come first: one label must be wrong. Then come those that confident
    learning finds, the least likely first: for each two classes it estimates how many labels of one belong to the
    other, and takes that many of the least likely.

    Args:
        rows: predictions with the columns image, label and p_CLASS.
        classes: the labels, in the order of the model.
        copies: pairs of rows that show the same picture, as `find_duplicates` returns them.
        decisions: image -> decision.

    Source:
        Northcutt, Jiang, Chuang 2021, "Confident learning: estimating uncertainty in dataset labels", JAIR 70.
    """
    from cleanlab.filter import find_label_issues

    labels, p = arrays(rows, classes)
    names, given = rows["image"], rows["label"]
    reason = np.where(find_label_issues(labels, p, n_jobs=1), "model", "").astype(object)
    for pair in copies[given.to_numpy()[copies["a"]] != given.to_numpy()[copies["b"]]][::-1].itertuples():
        for one, other in ((pair.a, pair.b), (pair.b, pair.a)):
            reason[one] = f"{pair.kind} {'to' if pair.kind == 'identical' else 'of'} {names[other]} ({given[other]})"
    order = [next(rank for rank, kind in enumerate(REASONS) if text.startswith(kind)) for text in reason]
    table = pd.DataFrame({"image": names, "given": given, "suggested": np.array(classes, object)[p.argmax(1)],
                          "p_given": p[np.arange(len(p)), labels], "p_suggested": p.max(1), "reason": reason,
                          "decision": [decisions.get(name, "") for name in names], "order": order})
    table = table[(table["reason"] != "") | (table["decision"] != "")].sort_values(["order", "p_given", "image"])
    gone = pd.DataFrame(dict.fromkeys(COLUMNS, ""), sorted(decisions.keys() - {*names}))  # such as of other classes
    gone = gone.assign(image=gone.index, decision=gone.index.map(decisions), p_given=np.nan, p_suggested=np.nan)
    return pd.concat([table[COLUMNS], gone], ignore_index=True) if len(gone) else table[COLUMNS].reset_index(drop=True)


def _neighbors(rows: pd.DataFrame, prints: pd.DataFrame, images: pd.Series) -> list[list[Neighbor]]:
    """Returns the most similar pictures of each of `images`."""
    nearest, alike = most_similar(prints, pd.Index(rows["image"]).get_indexer(images), NEIGHBORS)
    return [[(rows["image"][other], rows["label"][other], float(value)) for other, value in zip(*both, strict=True)]
            for both in zip(nearest, alike, strict=True)]
