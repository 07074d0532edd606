"""What a notebook takes of a run is what training and the verbs say of it."""

import numpy as np
import pandas as pd
from conftest import ARCH
from PIL import Image

from busfast.cli import main
from busfast.models import load_predictor
from busfast.results import draw_maps, find_run, run_learner

RUN = "phantom/stratified"


def test_the_learner_of_a_run_says_of_its_validation_part_what_training_said(exported_run):
    learn = run_learner(find_run(RUN))
    probabilities, _ = learn.get_preds()
    kept = pd.read_csv(f"results/{RUN}/valid_predictions.csv")
    names = [f"data/phantom/{name}" for name in kept["image"]]
    assert list(learn.dls.valid_ds.items["image"]) == names
    assert np.abs(probabilities.numpy() - kept[[f"p_{name}" for name in learn.dls.vocab]]).to_numpy().max() < 1e-5
    split = pd.read_csv(f"results/{RUN}/split.csv").set_index("image")["part"]
    seen = pd.concat([learn.dls.train_ds.items["image"], learn.dls.valid_ds.items["image"]])
    assert set(split[seen.str.removeprefix("data/phantom/")]) == {"train", "valid"}
    assert len(seen) == split.isin(("train", "valid")).sum()


def test_the_table_of_a_bundle_is_what_predict_writes(exported_run):
    assert main(["predict", "data/phantom/images", f"--model=models/{RUN}/bundle", "--out=out.csv"]) == 0
    wanted = pd.read_csv("out.csv", dtype=str, keep_default_na=False)
    found = load_predictor(f"models/{RUN}/bundle").table(list(wanted["image"]))
    assert found.equals(wanted)


def test_maps_are_drawn_beside_each_image_with_what_it_is_called(exported_run):
    learn = run_learner(find_run(RUN))
    images = learn.dls.valid_ds.items["image"][:4]
    figure = draw_maps(learn, ARCH, images, columns=3)
    drawn = [len(axes.images) for axes in figure.axes]
    assert drawn == [1, 2] * 4 + [0, 0] * 2  # the picture; the picture with its map; empty places
    probabilities = learn.get_preds()[0][:4]
    assert [axes.get_title() for axes in figure.axes[:8:2]] == [
        f"predicted {learn.dls.vocab[row.argmax()]} ({row.max():.2f})" for row in probabilities]


def test_an_image_above_a_limit_of_pixels_that_was_lowered_is_named(exported_run, monkeypatch, capsys):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    assert main(["export", "--run=phantom/stratified"]) == 2
    error = capsys.readouterr().err
    assert "cannot be read: too many pixels" in error and "images/" in error and "--max_pixels=" in error
