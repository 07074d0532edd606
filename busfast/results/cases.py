"""Single images of the scored part, with what the model said of them: right and wrong ones, and the largest losses."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from scipy.special import logsumexp

from busfast.data.audit_page import embed_images
from busfast.data.open_data import find_data
from busfast.data.split_file import check_unchanged
from busfast.errors import UserError
from busfast.results.evaluation import Evaluation
from busfast.results.predictions import arrays, read_parts
from busfast.text import MANY

SHOWN = 4  # right ones, and wrong ones, of each class
WORST = 8


def show_cases(found: Evaluation) -> dict[str, Any]:
    """Returns what the report shows of single images.

    Returns:
        groups: (title, cards) of each true class, its right predictions first, and of the largest losses; a card has
        image, data (a small version, as a data: URL), label, predicted, p, p_label, loss, center and right. missing:
        why there are no images, in which case there are no groups; else "".
    """
    table, classes = score_cases(found.test, found.config.classes), found.config.classes
    groups = []
    for name in classes if len(classes) <= MANY else (found.positive,):
        of_class = table[table["label"] == name]
        groups.append((f"{name}: {of_class['right'].sum()} of {len(of_class)} right",
                       draw_cases(of_class, found.config.seed)))
    groups.append(("Wrong predictions with the largest loss", worst_cases(table)))
    names = list(dict.fromkeys(name for _, rows in groups for name in rows["image"]))
    try:
        data = dict(zip(names, embed_images(_find_files(found, names)), strict=True))
    except UserError as error:
        return {"groups": [], "missing": str(error)}
    return {"groups": [(title, rows.assign(data=rows["image"].map(data)).to_dict("records")) for title, rows in groups
                       if len(rows)], "missing": ""}


def score_cases(predictions: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Returns predictions with right, p (of the predicted class), p_label (of the true one), and loss: the image's
    cross-entropy, without weights of classes."""
    labels, probabilities = arrays(predictions, classes)
    logits = arrays(predictions, classes, "logit_")[1]
    each, called = range(len(labels)), probabilities.argmax(1)
    return predictions.assign(predicted=[classes[index] for index in called], right=called == labels,
                              p=probabilities.max(1), p_label=probabilities[each, labels],
                              loss=logsumexp(logits, axis=1) - logits[each, labels])


def draw_cases(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Returns up to `SHOWN` right and as many wrong rows of `score_cases`, drawn at random; at most one of a patient in
    each."""
    drawn = table.sample(frac=1, random_state=seed).drop_duplicates(["right", "group"])
    return pd.concat([drawn[drawn["right"]].head(SHOWN), drawn[~drawn["right"]].head(SHOWN)])


def worst_cases(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the wrong rows of `score_cases` with the largest loss, the largest first; at most one of a patient."""
    wrong = table[~table["right"]].sort_values("loss", ascending=False, kind="stable")
    return wrong.drop_duplicates("group").head(WORST)


def _find_files(found: Evaluation, names: Sequence[str]) -> list[Path]:
    """Returns the files of scored images; UserError if one is missing or changed since it was predicted."""
    if found.external:
        return [found.external.images[name] for name in names]
    parts = read_parts(found.run, find_data(found.config.data).parent).only(found.tested)
    rows = parts.rows[parts.rows["image"].isin(names)]
    files = dict(zip(rows["image"], check_unchanged(found.run.name, replace(parts, rows=rows)), strict=True))
    if gone := [name for name in names if name not in files]:
        raise UserError(f"{gone[0]} is not in the test part of {found.run.results / 'split.csv'}. Restore the file.")
    return [files[name] for name in names]
