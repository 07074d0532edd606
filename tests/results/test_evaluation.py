"""The test part: scored by evaluate alone, recorded each time, on the very images that the run was trained beside."""

import re
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import write_pipeline
from PIL import Image

from busfast.cli import main
from busfast.csvfile import write_csv
from busfast.data.phantom import write_phantom
from busfast.data.split_file import read_split
from busfast.models.metrics import macro_auc
from busfast.results import bootstrap
from busfast.results.evaluation import summarize
from busfast.results.facts import describe_run
from busfast.results.predictions import arrays, read_predictions
from busfast.results.report import gather
from busfast.training.runs import Run

NAME = "phantom/center_holdout"
CLASSES = ("normal", "benign", "malignant")
TABLES = {"predictions.csv", "metrics.csv", "calibration.csv", "operating_points.csv", "referral.csv",
          "evaluation.yaml"}


def run(*words, code=0):
    assert main(list(words)) == code


def history(name=NAME):
    return yaml.safe_load((Run(name).results / "evaluation.yaml").read_text())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on a phantom with enough patients for intervals, made once; tests work on copies of it."""
    place = tmp_path_factory.mktemp("trained")
    write_phantom(place / "data" / "phantom", images=300)
    write_pipeline(place, "data/phantom")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        run("train", "--split=center_holdout", "--epochs=1")
    return place


def test_every_validation_and_test_image_is_predicted_through_the_pixels_of_validation(place):
    run("evaluate", f"--run={NAME}")
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


def test_each_scoring_of_the_test_part_is_recorded_and_the_same_weights_are_not_run_twice(place, capsys):
    run("evaluate", f"--run={NAME}")
    first = (Run(NAME).results / "predictions.csv").read_bytes()
    assert history()["test_scored"] == 1 and len(history()["evaluations"][0]["weights_sha256"]) == 64
    run("evaluate", f"--run={NAME}")
    assert history()["test_scored"] == 1 and "these weights were scored on" in capsys.readouterr().out
    run("evaluate", f"--run={NAME}", "--again")
    assert history()["test_scored"] == 2 and "scored 2 times so far" in capsys.readouterr().out
    assert (Run(NAME).results / "predictions.csv").read_bytes() == first


def test_thresholds_and_temperature_do_not_depend_on_the_test_part(place):
    run("evaluate", f"--run={NAME}")
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


@pytest.mark.parametrize(("column", "value", "message"), [
    ("p_benign", "high", "column p_benign: 'high' is not a finite number"),
    ("label", "odd", "column label: 'odd' is not one of"), ("part", "train", "column part: 'train' is not one of"),
])
def test_predictions_that_were_meddled_with_are_refused_by_row_and_column(place, column, value, message, capsys):
    run("evaluate", f"--run={NAME}")
    path = Run(NAME).results / "predictions.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table.loc[2, column] = value
    write_csv(table, path)
    run("report", f"--run={NAME}", code=2)
    error = capsys.readouterr().err
    assert message in error and "row 4" in error


def test_the_report_needs_no_model_no_images_and_no_network(place):
    run("evaluate", f"--run={NAME}")
    shutil.rmtree("models")
    shutil.rmtree("data/phantom/images")
    run("report", f"--run={NAME}")
    page = (Run(NAME).results / "report.html").read_text()
    assert not re.search(r"<script|https?://(?!arxiv)|src=\"(?!data:image/png;base64,)", page)
    assert page.count("<img ") == 9 and all(re.findall(r'<img [^>]*alt="([^"]+)"', page))
    for words in ("PHANTOM", "not a medical device", "Limits", "All test images come from one center (gamma)",
                  "macro AUC", "python -m busfast evaluate --run=phantom/center_holdout", "was scored 1 time"):
        assert words in page
    card = (Run(NAME).results / "model_card.md").read_text()
    headings = ["Model details", "Intended use", "Factors", "Metrics", "Evaluation data", "Training data",
                "Quantitative analyses", "Ethical considerations", "Caveats and recommendations"]
    assert re.findall(r"^## (.+)$", card, flags=re.MULTILINE) == headings


def test_the_report_and_the_bundle_take_the_intervals_that_evaluate_wrote(place, capsys, monkeypatch):
    run("evaluate", f"--run={NAME}")
    drawn, draw = [], bootstrap.draw_weights
    monkeypatch.setattr(bootstrap, "draw_weights", lambda *args: drawn.append(1) or draw(*args))
    facts = describe_run(Run(NAME))
    page, reused = gather(summarize(Run(NAME), decimals=3), {}), len(drawn)
    drawn.clear()
    assert page == gather(summarize(Run(NAME)), {})  # the same to the digit
    assert reused <= len(drawn) / 2  # a few may be halfway between two digits
    drawn.clear()
    describe_run(Run(NAME), scores=False)
    assert not drawn  # for `predict --run`
    capsys.readouterr()
    for name in ("metrics.csv", "operating_points.csv"):
        (Run(NAME).results / name).unlink()
    assert describe_run(Run(NAME)) == facts and drawn
    assert "computed again what metrics.csv, operating_points.csv did not hold" in capsys.readouterr().out


def test_intervals_of_another_target_or_class_are_not_reused(place, capsys):
    run("evaluate", f"--run={NAME}")
    capsys.readouterr()
    run("report", f"--run={NAME}")
    assert "computed again" not in capsys.readouterr().out
    run("report", f"--run={NAME}", "--target=0.8", "--positive=benign")
    assert "computed again what operating_points.csv did not hold" in capsys.readouterr().out
    wanted = summarize(Run(NAME), target=0.8, positive="benign").points
    reused = summarize(Run(NAME), target=0.8, positive="benign", decimals=3).points
    pd.testing.assert_frame_equal(wanted, reused)


def test_a_report_that_somebody_else_wrote_stays(place, capsys):
    run("evaluate", f"--run={NAME}")
    page = Run(NAME).results / "report.html"
    page.write_text("my own words")
    run("report", f"--run={NAME}", code=2)
    assert "was not written by busfast" in capsys.readouterr().err and page.read_text() == "my own words"


def test_a_run_that_was_not_evaluated_says_what_to_do(place, capsys):
    run("report", f"--run={NAME}", code=2)
    assert f"python -m busfast evaluate --run={NAME}" in capsys.readouterr().err


def test_train_goes_on_to_evaluate_and_report_and_compare_shows_the_gap(place, capsys):
    run("train", "--split=stratified", "--epochs=1", "--then=report")
    assert (Run("phantom/stratified").results / "report.html").is_file()
    run("evaluate", f"--run={NAME}")
    run("compare")
    said = capsys.readouterr().out
    assert "phantom/center_holdout against phantom/stratified: macro AUC" in said
    assert "differ in" not in said
    table = pd.read_csv("results/compare.csv").set_index("run")
    assert table["test_macro_auc"].notna().all() and (table["test_low"] < table["test_high"]).all()
    apart = pd.read_csv("results/differences.csv").set_index("score")
    assert set(apart["images"]) == {"different"} and set(apart["b"]) == {NAME}
    assert apart["difference"].tolist() == pytest.approx((apart["value_b"] - apart["value_a"]).tolist(), abs=1e-5)
    run("train", "--then=evalute", code=2)
    assert "Did you mean 'evaluate'?" in capsys.readouterr().err


def test_runs_on_the_same_test_images_are_compared_pair_by_pair(place):
    run("train", "--split=center_holdout", "--epochs=1", "--lr=1e-5", "--then=evaluate")
    run("evaluate", f"--run={NAME}")
    run("compare", f"--runs={NAME},{NAME}-2")
    apart = pd.read_csv("results/differences.csv")
    assert set(apart["images"]) == {"same"} and len(apart) == 3 and set(apart["recipe"]) == {"lr"}
    assert (apart["low"] <= apart["difference"]).all() and (apart["difference"] <= apart["high"]).all()
    # a run against itself: no draw of patients makes a difference
    shutil.copytree(Run(NAME).results, Run("phantom/twin").results)
    run("compare", f"--runs={NAME},phantom/twin")
    assert (pd.read_csv("results/differences.csv")[["difference", "low", "high"]] == 0).all(axis=None)


@pytest.mark.parametrize("missing", [["malignant"], ["normal", "benign"]])
def test_a_test_part_without_a_class_is_reported_all_the_same(place, missing):
    run("evaluate", f"--run={NAME}")
    path = Run(NAME).results / "predictions.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    write_csv(table[(table["part"] == "valid") | ~table["label"].isin(missing)], path)
    run("report", f"--run={NAME}")
    found = summarize(Run(NAME))
    assert np.isnan(found.pick("macro_auc")["estimate"]) and not np.isnan(found.pick("accuracy")["estimate"])
    page = (Run(NAME).results / "report.html").read_text()
    assert "not defined" in page and not re.search(r"\bnan\b", re.sub(r"base64,[^\"]+", "", page))
    if "malignant" in missing:
        assert "The test part holds no malignant image: what matters most was not tested." in page


def test_a_center_may_be_called_anything(place):
    run("evaluate", f"--run={NAME}")
    path = Run(NAME).results / "predictions.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    rows = table.index[table["part"] == "test"][::2]
    table.loc[rows, "center"] = "<script>alert(1)</script>|x $a_ $"
    write_csv(table, path)
    run("report", f"--run={NAME}")
    assert "<script" not in (Run(NAME).results / "report.html").read_text()
    card = (Run(NAME).results / "model_card.md").read_text()
    assert "<script" not in card and "\\|x" in card
