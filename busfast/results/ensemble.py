"""Several trained runs -> one run, an ensemble: the mean of their probabilities; every verb takes it like any run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from busfast.csvfile import write_csv
from busfast.data.open_data import find_data
from busfast.data.split import UNUSED, Split, count_parts
from busfast.data.split_file import read_split
from busfast.errors import UserError
from busfast.inference.bundle import describe_input
from busfast.inference.run_model import join_states, run_image
from busfast.pipelines.config import Config
from busfast.pipelines.pipeline_file import folder_name
from busfast.results.evaluation import choose_positive
from busfast.results.predictions import check_weights, read_positive, require_single_label
from busfast.results.printing import format_interval
from busfast.results.run_groups import find_groups, is_scored, pool_tests
from busfast.results.scores import score
from busfast.results.written import FORMAT
from busfast.training.callbacks import save_weights
from busfast.training.finish import VALID_FILE, finish_run, read_valid
from busfast.training.runs import (
    DONE,
    Run,
    all_runs,
    discard_run,
    file_sha256,
    new_run,
    provenance,
    refuse_while_training,
    write_config,
)

OUT_OF_FOLD = "out_of_fold.csv"
UNSCORED = ("its members were trained on different splits, so each image has trained at least one of them and none is "
            "left to test their mean")


def make_ensemble(runs: list[Run]) -> Run:
    """Makes a run whose model is the mean of the probabilities of others; the others stay unchanged.

    If all members have the same split, the ensemble has it, too, and `evaluate` scores it on its test part. If their
    splits differ, every image that trained or selected a member is in its training part, and it has no other part; the
    scores of the members on images that they did not see are written to out_of_fold.csv, if each image was in the test
    part of one of them and `evaluate` has scored them.

    It has the positive class that members name or `evaluate` recorded, unless they differ in it. If there is an
    ensemble of these weights already, no second one is made.

    Args:
        runs: as `find_members` returns them.

    Returns:
        The new run, or the one that there is.

    Raises:
        UserError: one of them is unfinished, was changed, or does not fit the others.
    """
    configs = [run.read_config() for run in runs]
    for config, _ in configs:
        require_single_label(config, "ensemble")
    sums = {run.name: _check_member(run, record) for run, (_, record) in zip(runs, configs, strict=True)}
    _check_fit(runs, configs)
    first = configs[0][1]
    named = {read_positive(run, config) for run, (config, _) in zip(runs, configs, strict=True)} - {None}
    config = replace(configs[0][0], positive=named.pop() if len(named) == 1 else "")
    same = len({file_sha256(run.results / "split.csv") for run in runs}) == 1
    root = find_data(config.data).parent
    splits = [read_split(run.results / "split.csv", root) for run in runs]
    if found := _find_ensemble(sums):
        print(f"{found.name}: there already, of these runs")
        if not same:
            _write_out_of_fold(found, runs, splits, config)  # members may have been scored since
        return found
    parts = splits[0] if same else _join_splits(splits)
    record = first | provenance(first["table_sha256"]) | {
        "fold": first["fold"] if same else "",
        "holdout": first["holdout"] if same else [],
        "leaks": "; ".join(sorted({record["leaks"] for _, record in configs} - {""})),
        "counts": count_parts(parts, config.classes).to_dict("index"), "members": [run.name for run in runs],
        "members_sha256": sums, "seeds": [config.seed for config, _ in configs], "unscored": "" if same else UNSCORED}
    ensemble = new_run(*_name(runs))
    try:
        save_weights(join_states([run.best_weights() for run in runs]), ensemble.models / "best.pth")
        write_csv(parts.rows, ensemble.results / "split.csv")
        write_config(ensemble, config, record)
        if not same:
            _write_out_of_fold(ensemble, runs, splits, config)
        mean, valid = _mean_valid(runs, config, parts) if same else (None, {})
        finish_run(ensemble, {"state": DONE[0], "valid": valid}, config, parts, mean)
    except BaseException:
        discard_run(ensemble)
        raise
    print(f"{ensemble.name}: the mean of {len(runs)} runs: {', '.join(sums)}\n"
          f"wrote {ensemble.results}/ and {ensemble.models}/")
    if len(set(sums.values())) < len(sums):
        print("warning: some of them have the same weights, which count as often in the mean")
    return ensemble


def _find_ensemble(sums: dict[str, str]) -> Run | None:
    """Returns the ensemble of these runs with the weights that they have now, if there is one."""
    return next((run for run in all_runs() if run.read_config()[1].get("members_sha256") == sums
                 and run.best_weights().is_file()), None)


def _check_member(run: Run, record: dict[str, Any]) -> str:
    """Returns the SHA-256 of a run's weights; raises if it cannot be a member."""
    refuse_while_training(run)
    summary = run.read_summary()
    if record.get("members"):
        raise UserError(f"{run.name} is an ensemble. Name its members: {', '.join(record['members'])}.")
    if summary.get("state") not in DONE:
        raise UserError(f"{run.name} is unfinished ({summary.get('state', 'running or killed')}). Finish it first "
                        "(train --resume).")
    if file_sha256(run.results / "split.csv") != (summary.get("sha256") or {}).get("split.csv"):
        raise UserError(f"{run.results / 'split.csv'} is not the split that {run.name} was trained with: it was "
                        "changed since. Restore the file, or train again.")
    return check_weights(run, record)


def _check_fit(runs: list[Run], configs: list[tuple[Config, dict]]) -> None:
    """Raises if members differ in classes, model, data or image pipeline."""
    facts = [{"classes": ", ".join(config.classes), "architecture": config.arch,
              "data": str(Path(config.data).resolve()), "tta": config.tta, **describe_input(run_image(config, record))}
             for config, record in configs]
    for run, run_facts in zip(runs[1:], facts[1:], strict=True):
        for key, value in run_facts.items():
            if value != facts[0][key]:
                raise UserError(f"{run.name} cannot be averaged with {runs[0].name}: {key} is {value} there and "
                                f"{facts[0][key]} here. Members need the same classes, model, data and image pipeline.")


def _join_splits(splits: list[Split]) -> Split:
    """Returns a split whose training part is every image of the train and valid parts of some splits."""
    rows = pd.concat([split.rows for split in splits], ignore_index=True)
    learned = rows["part"].isin(("train", "valid"))
    columns = [name for name in ("label", "pixels") if name in rows]
    cleaned = rows.assign(label=rows["label"].where(learned))  # the test part keeps the given labels
    differ = cleaned.groupby("image")[columns].nunique().max(axis=1) > 1
    if differ.any():
        raise UserError(f"{differ.idxmax()} has different labels or pixels in the splits of these runs. Train them on "
                        "the same images.")
    joined = pd.concat([rows[learned], rows[~learned]]).drop_duplicates("image").sort_index(ignore_index=True)
    joined["part"] = np.where(joined["image"].isin(rows["image"][learned]), "train", UNUSED).astype(object)
    return replace(splits[0], rows=joined)


def _name(runs: list[Run]) -> tuple[str, str]:
    """Returns the pipeline and the name of an ensemble, after its group or else its first member."""
    groups = [group.name for group in find_groups(runs) if len(group.runs) == len(runs)]
    pipeline, name = (groups[0] if groups else runs[0].name).split("/")
    return pipeline, folder_name(f"{name}-ensemble")


def _mean_valid(runs: list[Run], config: Config, parts: Split) -> tuple[np.ndarray | None, dict[str, float]]:
    """Returns the members' mean probabilities of the validation part, as training wrote them, and their scores."""
    if not all((run.results / VALID_FILE).is_file() for run in runs):
        return None, {}
    valid = parts.only("valid").rows
    mean = np.mean([read_valid(run, config.classes, valid["image"]) for run in runs], axis=0)
    labels = valid["label"].map(list(config.classes).index).to_numpy(int)
    scores = score(labels, mean, np.ones((1, len(valid))), config.classes)
    logged = {"val_loss": -np.log(np.maximum(mean[np.arange(len(labels)), labels], 1e-38)).mean(),
              "val_acc": scores["accuracy"][0], "macro_auc": scores["macro_auc"][0],
              **{f"recall_{name}": scores[f"sensitivity_{name}"][0] for name in config.classes}}
    return mean, {name: round(float(value), 6) for name, value in logged.items()}


def _write_out_of_fold(ensemble: Run, runs: list[Run], splits: list[Split], config: Config) -> None:
    """Scores the members on the images that they did not see, unless an image is in two test parts."""
    if pd.concat([split.only("test").rows["image"] for split in splits]).duplicated().any():
        return
    unscored = [run.name for run in runs if not is_scored(run)]
    if unscored:
        print(f"no {OUT_OF_FOLD}: first score {', '.join(unscored)} (python -m busfast evaluate --run=RUN)")
        return
    scores = pool_tests(runs)
    write_csv(scores.reset_index(names="score"), ensemble.results / OUT_OF_FOLD, float_format=FORMAT)
    shown = ("macro_auc", *filter(scores.index.__contains__, [f"sensitivity_{choose_positive(ensemble, config)}"]))
    print("out of fold (each image by the member that did not see it; these are scores of the members, not of their "
          "mean): " + ", ".join(f"{name} {format_interval(scores.loc[name])}" for name in shown))
