"""The test part is scored by evaluate only, recorded each time, through the pixels of validation.

Covers busfast/results/__init__.py, busfast/results/evaluation.py, busfast/results/predictions.py and
busfast/results/plots.py.
"""

import json
import re
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from busfast.cli import main
from busfast.csvfile import write_csv
from busfast.data.phantom import write_phantom
from busfast.data.split_file import read_split
from busfast.models.metrics import macro_auc
from busfast.results import plots, report
from busfast.results.evaluation import summarize
from busfast.results.facts import describe_run
from busfast.results.limits import find_limits
from busfast.results.plots import draw_reliability
from busfast.results.predictions import arrays, read_predictions
from busfast.training.runs import Run

NAME = "phantom/center_holdout"
CLASSES = ("normal", "benign", "malignant")
TABLES = {"predictions.csv", "metrics.csv", "calibration.csv", "operating_points.csv", "referral.csv",
          "predictive_values.csv", "decision_curve.csv", "evaluation.yaml"}


def run(*words, code=0):
    assert main(list(words)) == code


def history(name=NAME):
    return yaml.safe_load((Run(name).results / "evaluation.yaml").read_text())


def test_every_validation_and_test_image_is_predicted_through_the_pixels_of_validation(evaluated):
    found, split = read_predictions(Run(NAME), CLASSES), read_split(Run(NAME).results / "split.csv", ".")
    wanted = split.only("valid", "test").rows
    assert found[["image", "part", "label", "group"]].to_numpy().tolist() == \
        wanted[["image", "part", "label", "group"]].to_numpy().tolist()
    labels, probabilities = arrays(found, CLASSES)
    logits = arrays(found, CLASSES, "logit_")[1]
    assert np.allclose(torch.tensor(logits).softmax(1).numpy(), probabilities, atol=1e-6)
    valid = (found["part"] == "valid").to_numpy()
    log = pd.read_csv(Run(NAME).results / "training_log.csv").iloc[0]
    assert macro_auc(probabilities[valid], labels[valid]) == pytest.approx(log["macro_auc"], abs=1e-3)
    assert TABLES <= {path.name for path in Run(NAME).results.iterdir()}
    metrics = pd.read_csv(Run(NAME).results / "metrics.csv", keep_default_na=False, na_values=[""])
    row = metrics.query("part == 'test' and by == 'all' and score == 'macro_auc'").iloc[0]
    assert row["estimate"] == pytest.approx(macro_auc(probabilities[~valid], labels[~valid]), abs=1e-5)
    assert row["low"] < row["estimate"] < row["high"]


def test_each_scoring_of_the_test_part_is_recorded_and_the_same_weights_are_not_run_twice(evaluated, capsys):
    first = (Run(NAME).results / "predictions.csv").read_bytes()
    assert history()["test_scored"] == 1 and len(history()["evaluations"][0]["weights_sha256"]) == 64
    run("evaluate", f"--run={NAME}")
    assert history()["test_scored"] == 1 and "these weights were scored on" in capsys.readouterr().out
    run("evaluate", f"--run={NAME}", "--again")
    assert history()["test_scored"] == 2 and "its test part has been scored twice" in capsys.readouterr().out
    assert (Run(NAME).results / "predictions.csv").read_bytes() == first


def test_the_reliability_picture_has_the_counts_of_its_bins_and_says_why_it_is_empty(evaluated):
    found = summarize(Run(NAME), reuse=True)
    shown = [int(text.get_text()) for text in draw_reliability(found)[0].axes[0].texts]
    sure = arrays(found.test, CLASSES)[1].max(1)
    counts = np.bincount((sure * 15).astype(int).clip(max=14), minlength=15)
    assert counts[counts >= 10].tolist() == shown[:(counts >= 10).sum()] and len(shown) > (counts >= 10).sum()
    few = found.predictions.drop(found.test.index[8:])
    figure, text = draw_reliability(replace(found, predictions=few, reuse=False))
    assert "No bin has 10 images: the test part is too small" in figure.axes[0].texts[0].get_text().replace("\n", " ")
    assert "8 of 8 images are in smaller bins" in figure.legends[0].get_texts()[0].get_text()
    assert "too few to draw" in text


def test_thresholds_and_temperature_do_not_depend_on_the_test_part(evaluated):
    before = summarize(Run(NAME))
    table = pd.read_csv(Run(NAME).results / "predictions.csv", dtype=str, keep_default_na=False)
    test = table["part"] == "test"
    table.loc[test, "label"] = table.loc[test, "label"].sample(frac=1, random_state=0).to_numpy()
    write_csv(table, Run(NAME).results / "predictions.csv")
    after = summarize(Run(NAME))
    assert after.temperature == before.temperature
    assert after.points["threshold"].tolist() == before.points["threshold"].tolist()
    assert after.referral["threshold"].tolist() == before.referral["threshold"].tolist()
    assert after.pick("macro_auc")["estimate"] != before.pick("macro_auc")["estimate"]


def test_a_model_that_is_of_no_use_is_said_to_be_so_first_in_the_limits(evaluated):
    table = pd.read_csv(Run(NAME).results / "predictions.csv", dtype=str, keep_default_na=False)
    test = table["part"] == "test"
    table.loc[test, "label"] = table.loc[test, "label"].sample(frac=1, random_state=0).to_numpy()
    table.loc[test & (table["label"] != "malignant"), "logit_malignant"] = "50"
    write_csv(table, Run(NAME).results / "predictions.csv")
    found = summarize(Run(NAME))
    chance, *thresholds = found.failures
    assert f"not shown to be better than chance: the interval of its macro AUC on the test part begins at " \
           f"{found.pick('macro_auc')['low']:.3f}" in chance
    assert len(thresholds) == 1 and "decides malignant for every image of the test part that is not" in thresholds[0]
    assert find_limits(found)[:2] == found.failures


def test_a_temperature_that_worsened_the_test_part_is_among_the_limits_and_told_by_export(evaluated, capsys):
    assert not summarize(Run(NAME)).worsened
    table = pd.read_csv(Run(NAME).results / "predictions.csv", dtype=str, keep_default_na=False)
    valid, test = table["part"] == "valid", table["part"] == "test"
    table.loc[valid, "label"] = table.loc[valid, "label"].sample(frac=1, random_state=0).to_numpy()
    table.loc[test, "group"] = [f"group {row}" for row in range(test.sum())]
    for name in CLASSES:  # sure and right on the test part, while validation asks for a high temperature
        right = table.loc[test, "label"] == name
        table.loc[test, f"logit_{name}"] = np.where(right, "4", "0")
        table.loc[test, f"p_{name}"] = np.where(right, "0.964664", "0.017668")
    write_csv(table, Run(NAME).results / "predictions.csv")
    found = summarize(Run(NAME))
    text, = found.worsened
    assert "worsened the test part's calibration" in text and text in find_limits(found)
    capsys.readouterr()
    describe_run(Run(NAME))
    assert f"{NAME}: {text}" in capsys.readouterr().out


def test_a_target_of_the_users_own_is_reached_on_validation(place, capsys):
    run("evaluate", f"--run={NAME}", "--target=0.8", "--positive=benign")
    points = pd.read_csv(Run(NAME).results / "operating_points.csv")
    assert set(points["target"]) == {0.8, 0.9}
    valid = points.query("part == 'valid' and score == 'sensitivity'").set_index("target")["estimate"]
    assert (valid >= valid.index).all()
    assert "benign if its probability is" in capsys.readouterr().out


@pytest.mark.parametrize(("harm", "message"), [
    (lambda place: (place / "models" / NAME / "best.pth").unlink(), "has no models/"),
    (lambda place: next((place / "data/phantom/images").glob("gamma*")).unlink(), "cannot be found in"),
    (lambda place: alter(next((place / "data/phantom/images").glob("gamma*"))), "changed since it was trained"),
    (lambda place: rewrite(place / "results" / NAME / "config.yaml", r"busfast: \S+", "busfast: 7.1.0"),
     "was made by busfast 7.1.0"),
    (lambda place: rewrite(place / "results" / NAME / "config.yaml", r"arch: \S+", "arch: resnet18"), "best.pth"),
    (lambda place: rewrite(place / "results" / NAME / "split.csv", ",test,", ",unused,"), "no image in part 'test'"),
])
def test_what_cannot_be_evaluated_is_refused_before_anything_is_recorded(place, harm, message, capsys):
    harm(place)
    run("evaluate", f"--run={NAME}", code=2)
    assert message in capsys.readouterr().err
    assert not TABLES & {path.name for path in Run(NAME).results.iterdir()}


def alter(path):
    Image.open(path).transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(path)


def rewrite(path, pattern, text):
    path.write_text(re.sub(pattern, text, path.read_text()))


@pytest.mark.parametrize(("flags", "message"), [
    (["--target=1.5"], "target=1.5 is no sensitivity"), (["--target=much"], "target=much is no sensitivity"),
    (["--positive=malingant"], "Did you mean 'malignant'?"), (["--run=phantom/stratifed"], "There is no run"),
])
def test_a_wrong_request_costs_no_time(place, flags, message, capsys):
    run("evaluate", *([f"--run={NAME}"] if "--run" not in flags[0] else []), *flags, code=2)
    assert message in capsys.readouterr().err and not (Run(NAME).results / "evaluation.yaml").exists()


@pytest.fixture
def unclear(evaluated, monkeypatch):
    """An evaluated run of before there was a key `positive`, whose classes do not tell which is the positive one.
    Reports have no pictures, to save time."""
    monkeypatch.setattr(report, "draw_all", lambda found, folder: {})
    names = ("config.yaml", "split.csv", "predictions.csv", "valid_predictions.csv")
    for path in (*map((evaluated / "results" / NAME).joinpath, names), evaluated / "data/phantom/table.csv"):
        rewrite(path, "normal|malignant", lambda found: {"normal": "bacterial", "malignant": "viral"}[found[0]])
    rewrite(evaluated / "results" / NAME / "config.yaml", "positive: .*\n", "")
    return evaluated


def test_the_positive_class_is_asked_for_where_it_is_not_plain_and_before_anything_is_scored(unclear, capsys):
    before = {path: path.read_bytes() for path in Run(NAME).results.iterdir()}
    for line in (f"evaluate --run={NAME}", f"evaluate --run={NAME} --again", f"report --run={NAME}",
                 f"export --run={NAME}", f"predict data/phantom/images --run={NAME}"):
        run(*line.split(), code=2)
        error = capsys.readouterr().err
        for words in ("bacterial, benign, viral", "--positive=CLASS", "positive: CLASS"):
            assert words in error, line
    assert {path: path.read_bytes() for path in Run(NAME).results.iterdir()} == before
    assert compared() == {"macro_auc", "balanced_accuracy"}


def compared():
    """Which scores `compare` has of a run and its copy."""
    for room in ("results", "models"):
        shutil.copytree(f"{room}/{NAME}", f"{room}/phantom/copy", dirs_exist_ok=True)
    run("compare")
    return {*pd.read_csv("results/differences.csv")["score"]}


def test_a_positive_class_that_was_given_is_recorded_and_heeded_by_every_verb(unclear, capsys):
    run("evaluate", f"--run={NAME}", "--positive=benign")
    assert history()["positive"] == "benign" and history()["test_scored"] == 2
    capsys.readouterr()
    run("evaluate", f"--run={NAME}", "--again")
    assert "  benign if its probability is" in capsys.readouterr().out
    assert history()["positive"] == "benign" and history()["test_scored"] == 3
    run("report", f"--run={NAME}", "--prevalence=.02")
    assert "Predicting benign" in (Run(NAME).results / "report.html").read_text() and history()["prevalence"] == [0.02]
    run("export", f"--run={NAME}")
    facts = json.loads((Run(NAME).models / "bundle" / "bundle.json").read_text())
    assert {point["class"] for point in facts["operating_points"]} == {facts["run"]["config"]["positive"]} == {"benign"}
    write_phantom(Path("data/far"), images=30, seed=5)
    rewrite(Path("data/far/table.csv"), "normal", "bacterial")
    for subject, place in ((f"--run={NAME}", f"{NAME}/external/far"),
                           (f"--model=models/{NAME}/bundle", f"external/{NAME.replace('/', '_')}/far")):
        capsys.readouterr()
        run("evaluate", subject, "--data=data/far")
        assert "  benign if its probability is" in capsys.readouterr().out and "positive" not in history(place)
    assert compared() == {"macro_auc", "balanced_accuracy", "sensitivity_benign"}
    rewrite(Run(NAME).results / "evaluation.yaml", "positive: benign", "positive: bening")
    run("report", f"--run={NAME}", code=2)
    assert "positive=bening is none of the classes bacterial, benign, viral" in capsys.readouterr().err


def test_the_pipeline_file_names_the_positive_class(place, capsys):
    with open("pipelines/phantom.yaml", "a") as file:
        file.write("positive: benign\n")
    run("train", "--split=stratified", "--epochs=1", "--then=evaluate")
    assert "  benign if its probability is" in capsys.readouterr().out
    assert "positive: benign\n" in (Run("phantom/stratified").results / "config.yaml").read_text()
    run("train", "--epochs=1", "--positive=bening", code=2)
    assert "Did you mean 'benign'?" in capsys.readouterr().err


@pytest.mark.parametrize("classes", [("benign", "malignant", "normal"), ("fibroadenoma with atypia", "no finding"),
                                     ("a" * 28, "b" * 28, "phyllodes tumor, borderline", "d" * 28)])
def test_names_of_classes_do_not_overlap_in_the_confusion_matrices(classes):
    table = pd.DataFrame({"label": classes, **{f"p_{name}": np.eye(len(classes))[i] for i, name in enumerate(classes)}})
    figure, _ = plots.draw_confusion(SimpleNamespace(
        config=SimpleNamespace(classes=classes), parts=("valid", "test"), part=lambda _: table, tested="test",
        run=Run("a/run/external/far"), where="test part"))
    assert [axes.get_title("left") for axes in figure.axes] == ["validation part of the run", "test part"]
    assert figure.axes[0].get_title().strip() == "a/run/external/far"
    figure.draw_without_rendering()
    for axes in figure.axes:
        boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
        assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
        assert axes.xaxis.label.get_window_extent().y0 >= 0
