"""The study of left-out centers trains without them, and compares recipes seed by seed.

Covers benchmarks/travel.py.
"""

import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
import travel
from common import run_study
from conftest import ARCH
from option_parts import cut_borders
from options import BASE, Option, prepare
from PIL import Image
from scipy.special import softmax
from travel import CHOSEN, VIEWS

from busfast.errors import UserError

CUT = "borders cut"


def test_every_center_is_left_out_of_every_recipe_and_what_is_kept_is_not_trained_again(
        workdir, phantom_folder, monkeypatch):
    two = {"epochs": 2, "arch": ARCH, "weights": "none", "freeze": 0, "freeze_after": 0}
    monkeypatch.setattr(travel, "OPTIONS", {
        BASE: Option(two), CUT: Option(two, change_data=partial(cut_borders, share=0.1)), "other": Option(two)})

    def study():
        run_study("travel", travel.__doc__, travel.DEFAULTS, travel.run,
                  [f"--data={phantom_folder}", "--size=32", "--seeds=1", f"--only={CUT}", "--out=out"])
        return pd.read_csv("out/travel.csv").set_index("name")

    table = study()
    assert table.index.tolist() == [f"{name}; {view}" for name in (BASE, CUT) for view in VIEWS]
    assert table[["macro_auc", "pair_auc", "accuracy", "valid_macro_auc"]].stack().between(0, 1).all()
    assert table.loc[f"{BASE}; {CHOSEN}", "gain_pair_auc"] == 0
    monkeypatch.setattr(travel, "train", lambda *_: pytest.fail("trained again"))
    assert study().equals(table)


def test_the_left_out_center_trains_nothing(workdir, phantom_folder):
    names, config, *found = prepare(travel.OPTIONS, phantom_folder, 32, [BASE])
    task = next(travel._list_tasks(names, replace(config, epochs=2), *found, [1]))
    seen = []
    build = travel.build
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(travel, "build", lambda *given: seen.append(build(*given)) or seen[0])
        found = travel.train(Option({"epochs": 2}), task.config, task.split, workdir)
    trained = seen[0].dls.train_ds.items
    assert len(trained) == (task.split.rows["part"] == "train").sum() and task.center not in set(trained["center"])
    assert set(found["centers"][found["left_out"]]) == {task.center}
    assert task.center not in found["centers"][~found["left_out"]]
    assert found["epochs"].shape == (2, len(found["labels"]), 3)
    assert not np.array_equal(found["mirrored"], found["epochs"][-1])


@pytest.fixture(scope="module")
def train(tmp_path_factory, phantom_folder):
    """Trains with an option for an epoch, without the first center."""
    folder = tmp_path_factory.mktemp("travel")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        _, config, *found = prepare(travel.OPTIONS, phantom_folder, 32, [BASE])
        config = replace(config, epochs=1, arch=ARCH, weights="none", freeze=0, freeze_after=0)
        task = next(travel._list_tasks([BASE], config, *found, [1]))
        yield lambda option: travel.train(option, task.config, task.split, folder)


@pytest.fixture(scope="module")
def base(train):
    return train(Option())


@pytest.mark.parametrize("name", [name for name, option in travel.OPTIONS.items() if option.change_learner])
def test_what_an_option_changes_in_the_learner_is_trained(train, base, name):
    other = train(travel.OPTIONS[name])
    assert np.isfinite(other["epochs"]).all() and not np.allclose(other["epochs"], base["epochs"])
    assert np.array_equal(other["average"], other["epochs"][-1])  # of one epoch


def test_the_views_choose_and_average_what_they_say():
    labels, left_out = np.array([0, 1, 2, 0, 1, 2]), np.array([False] * 3 + [True] * 3)
    right, wrong = 3.0 * np.eye(3)[labels], 3.0 * np.eye(3)[(labels + 1) % 3]
    sure = 9.0 * np.eye(3)[labels]
    found = {"labels": labels, "left_out": left_out, "centers": np.array(["a"] * 3 + ["b"] * 3),
             "epochs": np.stack([right, sure, wrong]), "mirrored": sure, "average": right, "average_mirrored": wrong,
             "statistics": wrong}
    shown = {view: travel.probabilities(found, view) for view in VIEWS}
    assert np.allclose(shown[CHOSEN], softmax(sure, axis=1))
    assert np.allclose(shown["last epoch"], softmax(wrong, axis=1))
    assert np.allclose(shown["last epoch, mirrored, too"], (softmax(wrong, axis=1) + softmax(sure, axis=1)) / 2)
    assert travel.assess(found, shown["last epoch"])["macro_auc"] == 0.25
    assert travel.assess(found, shown[CHOSEN]) == dict.fromkeys(
        ("valid_macro_auc", "valid_pair_auc", "valid_accuracy", "macro_auc", "pair_auc", "accuracy"), 1)


def test_an_ensemble_averages_the_probabilities_of_all_seeds_at_the_left_out_center():
    labels, left_out, trained = np.array([0, 1, 2, 0, 1, 2]), np.array([False] * 3 + [True] * 3), {}
    for seed, strength in ((1, 9.0), (2, -1.0)):  # the first is right, and sure of it; the second is wrong
        logits = strength * np.eye(3)[labels]
        trained[BASE, seed, "b"] = dict.fromkeys(("mirrored", "average", "average_mirrored", "statistics"), logits) | {
            "labels": labels, "left_out": left_out, "centers": np.array(list("aaabbb")), "epochs": logits[None]}
    scores = travel.list_scores(trained).query("view == @CHOSEN").set_index("seed")
    assert scores["macro_auc"].to_dict() == {1: 1, 2: 0, travel.ALL: 1}


def test_the_last_two_classes_are_scored_among_their_own_images():
    labels = np.array([0, 1, 1, 2, 2])
    shares = np.array([[0, 0, 1], [.8, .15, .05], [0, .4, .6], [.8, .05, .15], [0, .3, .7]])
    assert travel.score(labels, shares)["pair_auc"] == 1  # of all images, one of the first class would be the surest


def test_a_gain_is_the_mean_over_centers_and_seeds_with_its_interval():
    rows = [{"option": option, "view": CHOSEN, "seed": seed, "center": center, "valid_macro_auc": 0.9, "accuracy": 0.5,
             "macro_auc": 0.7 + gain * (center == "a"), "pair_auc": 0.6 + gain}
            for seed, more in ((1, 0.1), (2, 0.0), (3, 0.05)) for center in "ab"
            for option, gain in ((BASE, 0.0), (CUT, more))]
    rows += [row | {"seed": travel.ALL, "pair_auc": 0.99} for row in rows if row["seed"] == 1]
    row = travel.summarize(pd.DataFrame(rows)).set_index("name").loc[f"{CUT}; {CHOSEN}"]
    assert row["ensemble_pair_auc"] == 0.99 and row["seeds"] == 3
    assert row["gain_pair_auc"] == pytest.approx(0.05) and row["gain_macro_auc"] == pytest.approx(0.025)
    assert row["gain_pair_auc_95"] == pytest.approx(4.3027 * 0.05 / 3**0.5, rel=1e-4)  # t(2); sd of .1, 0, .05


def test_one_center_is_refused(workdir, phantom_folder):
    shutil.copytree(phantom_folder, "data")
    pd.read_csv("data/table.csv").assign(center="one").to_csv("data/table.csv", index=False)
    with pytest.raises(UserError, match="needs two centers or more"):
        travel.run(workdir, "data", [1], 32, [], "kept", torch.device("cpu"), 1)


def test_cut_images_lack_their_borders(parts, tmp_path):
    few = replace(parts, rows=parts.rows.head(1))
    cut, = cut_borders(few, tmp_path, 0.1).image_paths()
    with Image.open(few.image_paths()[0]) as before, Image.open(cut) as after:
        left, top = round(before.width * 0.1), round(before.height * 0.1)
        assert np.array_equal(np.asarray(after), np.asarray(before.convert("RGB"))[top:-top, left:-left])
