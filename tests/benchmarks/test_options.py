"""The study of options compares like with like, and each option does what its name says.

Covers benchmarks/options.py and benchmarks/option_parts.py.
"""

from dataclasses import replace

import numpy as np
import options
import pandas as pd
import pytest
from common import run_study
from conftest import ARCH
from fastai.learner import Learner
from option_parts import balance_classes, equalize_contrast
from options import BASE
from PIL import Image

from busfast.models import make_learner
from busfast.pipelines import ImagePipeline, make_dls


def run_options(*flags):
    run_study("options", options.__doc__, options.DEFAULTS, options.run, flags)


@pytest.fixture
def learn(parts) -> Learner:
    dls = make_dls(parts, ImagePipeline(size=32), bs=16, loader="torchvision", device="cpu")
    made = make_learner(dls, ARCH, weights="none", dropout=0)
    return made.remove_cbs([made.recorder, made.progress])


def test_every_option_is_scored_by_the_validation_part_and_compared_seed_by_seed(workdir, phantom_folder):
    few = "label,mixup,averaged,mirrored,balanced,classifier"
    run_options(f"--data={phantom_folder}", "--size=32", "--seeds=1,2", f"--only={few}", "--out=out")
    table = pd.read_csv("out/options.csv").set_index("name")
    assert len(table) == 7 and (table["seeds"] == 2).all()
    assert table["macro_auc"].between(0, 1).all() and table["macro_auc"].nunique() > 4
    assert table.loc[BASE, "gain"] == 0
    assert table["gain"].to_numpy() == pytest.approx(table["macro_auc"] - table.loc[BASE, "macro_auc"], abs=1e-5)
    assert "--seeds=1,2 --only=" in open("out/options.md").read()


def test_a_gain_is_the_mean_over_seeds_with_its_interval():
    runs = pd.DataFrame({"name": [BASE, "x"] * 3, "seed": [1, 1, 2, 2, 3, 3], "macro_recall": 0.5, "val_loss": 1.0,
                         "macro_auc": [0.8, 0.9, 0.7, 0.7, 0.9, 0.95]})
    row = options.summarize(runs).set_index("name").loc["x"]
    assert row["gain"] == pytest.approx(0.05)
    assert row["gain_95"] == pytest.approx(4.3027 * 0.05 / 3**0.5, rel=1e-4)  # t(2), 97.5%; sd of .1, 0, .05


def test_the_best_epoch_is_that_of_the_lowest_val_loss(workdir, parts, monkeypatch):
    rows = [{"val_loss": loss, "macro_auc": auc} for loss, auc in ((0.9, 0.7), (0.5, 0.6), (0.7, 0.99))]
    monkeypatch.setattr(options, "Scores", lambda: type("Kept", (options.Callback,), {"rows": rows})())
    config = options.load_config("phantom", size=32, epochs=1)[1]
    assert options.train(options.OPTIONS[BASE], config, parts, workdir) == rows[1]


def test_balanced_sampling_draws_every_class_equally_often(learn):
    dl = learn.dls.train
    labels = dl.dataset.items["label"].tolist()
    before = pd.Series(labels).value_counts(normalize=True)
    balance_classes(dl)
    drawn = pd.Series([labels[index] for _ in range(40) for index in dl.get_idxs()]).value_counts(normalize=True)
    assert before.max() - before.min() > 0.2 and drawn.max() - drawn.min() < 0.05


def test_clahe_spreads_the_contrast_of_every_part_and_keeps_the_rows(parts, tmp_path):
    few = replace(parts, rows=parts.rows.groupby("part").head(2))
    equalized = equalize_contrast(few, tmp_path)
    assert equalized.rows[["label", "part"]].equals(few.rows[["label", "part"]])
    for old, new in zip(few.image_paths(), equalized.image_paths(), strict=True):
        with Image.open(old) as before, Image.open(new) as after:
            assert before.size == after.size and np.std(after.convert("L")) > np.std(before.convert("L"))
