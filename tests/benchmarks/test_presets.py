"""The study of the presets scores what each would give, and never looks at a test part.

Covers benchmarks/presets.py.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import presets
import pytest
import torch
from common import run_study
from conftest import ARCH

from busfast.data.table import read_table
from busfast.errors import UserError
from busfast.pipelines.config import PRESETS
from busfast.pipelines.pipeline_file import load_config

FAST, BEST = "busfast --preset=fast", "busfast --preset=best"
TINY = {"epochs": 2, "size": 32, "arch": ARCH, "weights": "none", "bs": 16}


@pytest.fixture
def study(workdir, phantom_folder, monkeypatch):
    monkeypatch.setattr(presets, "PRESETS", {
        "fast": lambda config: TINY, "best": lambda config: TINY | {"tta": "flip"}})
    monkeypatch.setattr(presets, "MEMBERS", {"best": 2})

    def run(*flags):
        run_study("presets", presets.__doc__, presets.DEFAULTS, presets.run,
                  [f"--data={phantom_folder}", "--seeds=1", "--out=out", *flags])
        return pd.read_csv("out/presets.csv").set_index("name")

    return run


def test_both_presets_are_scored_and_what_is_kept_is_not_trained_again(study, monkeypatch):
    table = study()
    assert table.index.tolist() == [FAST, BEST]
    assert table[["valid_macro_auc", "macro_auc", "pair_auc"]].stack().between(0, 1).all()
    assert table.loc[FAST, ["gain_macro_auc", "gain_pair_auc", "gain_valid_macro_auc"]].eq(0).all()
    assert table.loc[BEST, "seconds"] > table.loc[FAST, "seconds"]
    kept = list(Path("results/presets").iterdir())
    assert len(kept) == 2 * 4  # members, of which the first is fast; three centers, and the stratified split
    with np.load(next(path for path in kept if "stratified" not in path.name)) as found:
        assert len(found["left_out_flip"]) == len(found["left_out"]) > 0
        assert np.allclose(found["left_out_flip"].sum(1), 1) and not np.allclose(*map(found.get, (
            "left_out_flip", "left_out_none")))
    monkeypatch.setattr(presets, "train", lambda *_: pytest.fail("trained again"))
    assert study().equals(table)
    some = study("--only=stratified")
    assert some["valid_macro_auc"].equals(table["valid_macro_auc"]) and "pair_auc" not in some


def test_no_task_sees_a_test_part_and_members_share_a_split(phantom_folder):
    sized = load_config(data=str(phantom_folder), size=37)[1]
    configs = {name: replace(sized, **PRESETS[name](sized)) for name in presets.NAMES}
    tasks = list(presets._list_tasks(read_table(sized.data, sized.classes), configs, [3]))
    assert len(tasks) == 4 + 3 * 4 and {task.config.tta for task in tasks if task.preset == "best"} == {"flip"}
    for task in tasks:
        rows = task.split.rows
        assert set(rows["center"][rows["part"] == "test"]) == {task.center} - {presets.STRATIFIED}
        assert task.center not in set(rows["center"][rows["part"] != "test"])
    assert {(task.seed, task.config.split_seed) for task in tasks} == {(3, 3)}
    assert sorted({task.config.seed for task in tasks}) == [3, 4, 5]


def test_an_ensemble_is_the_mean_of_its_members_and_costs_all_of_them():
    sure, wrong = np.eye(3), np.roll(np.eye(3), 1, axis=1)
    members = [{"valid": np.arange(3), "left_out": np.zeros(0, int), "seconds": np.array(5.0), "valid_none": wrong,
                "valid_flip": shares} for shares in (sure, 0.4 * wrong + 0.6 * sure)]
    assert presets.assess(members, "flip") == {"seconds": 10, "valid_macro_auc": 1, "valid_pair_auc": 1,
                                               "valid_accuracy": 1}
    assert presets.assess(members, "none")["valid_accuracy"] == 0
    other = [each | {"left_out": np.arange(3), "left_out_flip": sure} for each in members]
    assert presets.assess(other, "flip") == {"macro_auc": 1, "pair_auc": 1, "accuracy": 1}


def test_one_center_is_refused(workdir, phantom_folder):
    shutil.copytree(phantom_folder, "data")
    pd.read_csv("data/table.csv").assign(center="one").to_csv("data/table.csv", index=False)
    with pytest.raises(UserError, match="needs two centers or more"):
        presets.run(workdir, "data", [1], 32, [], "kept", torch.device("cpu"), 1)
