"""A finished model is scored on another labelled set, with what was chosen before, in a folder of its own."""

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import run_in
from sklearn.metrics import roc_auc_score

from busfast.cli import main
from busfast.csvfile import write_csv
from busfast.data.phantom import write_phantom
from busfast.results import report
from busfast.training.runs import Run, all_runs

NAME = "phantom/center_holdout"
PLACE = Run(f"{NAME}/external/far")
CLASSES = ("normal", "benign", "malignant")


def run(*words, code=0):
    assert main(list(words)) == code


def read(name, place=PLACE):
    return pd.read_csv(place.results / f"{name}.csv", keep_default_na=False, na_values=[""])


def contents(folder):
    return {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def estimates(place=PLACE):
    return read("metrics", place).query("part == 'external' and by == 'all'").set_index("score")["estimate"]


def write_far(folder, images=48, classes=CLASSES):
    """A set of another seed, without the file that marks it as a phantom."""
    write_phantom(folder, images=images, seed=5)
    (folder / "phantom.json").unlink()
    table = pd.read_csv(folder / "table.csv", dtype=str, keep_default_na=False)
    table = table[table["label"].isin(classes)].reset_index(drop=True)
    write_csv(table.assign(gender=np.where(table.index % 2, "F", "M")), folder / "table.csv")


@pytest.fixture(scope="module")
def scored_once(evaluated_once, tmp_path_factory):
    """A folder with an evaluated run that was scored on a set without normal images, and what was there before."""
    folder = tmp_path_factory.mktemp("scored") / "place"
    shutil.copytree(evaluated_once, folder)
    write_far(folder / "data" / "far", classes=CLASSES[1:])
    before = contents(folder / "results" / NAME)
    run_in(folder, f"evaluate --run={NAME} --data=data/far")
    return folder, before


@pytest.fixture
def scored(scored_once, tmp_path, monkeypatch):
    """A copy of it to work in, where what is scored next has no pictures, to save time."""
    monkeypatch.setattr(report, "draw_all", lambda found, folder: {})
    shutil.copytree(scored_once[0], tmp_path / "scored")
    monkeypatch.chdir(tmp_path / "scored")


def test_the_scores_are_of_the_set_and_what_was_chosen_on_validation_is_kept(scored, scored_once):
    predictions = read("predictions")
    assert set(predictions["part"]) == {"external"} and set(predictions["label"]) == {"benign", "malignant"}
    aucs = [roc_auc_score(predictions["label"] == name, predictions[f"p_{name}"]) for name in CLASSES[1:]]
    assert estimates()["macro_auc_present"] == pytest.approx(np.mean(aucs), abs=1e-5)
    assert np.isnan(estimates()[["macro_auc", "balanced_accuracy", "auc_normal", "sensitivity_normal"]]).all()
    own = Run(NAME).results
    for name in ("threshold", "target"):
        assert read("operating_points").query("part == 'external'")[name].unique().tolist() == pd.read_csv(
            own / "operating_points.csv").query("part == 'test'")[name].unique().tolist()
    assert read("calibration")["temperature"].unique() == pd.read_csv(own / "calibration.csv")["temperature"].unique()
    assert contents(own).keys() == {own / path.name for path in scored_once[1]}  # the run's own evaluation is untouched
    assert list(contents(own).values()) == [scored_once[1][scored_once[0] / path] for path in contents(own)]
    assert [one.name for one in all_runs()] == [NAME]  # nothing that chooses among runs meets the set


def test_the_report_is_marked_as_external_and_says_what_is_not_defined(scored):
    page = re.sub(r"base64,[^\"]+", "", (PLACE.results / "report.html").read_text())
    changes = read("changes").set_index("what")
    assert changes.at["share normal", "external"] == 0 < changes.at["share normal", "own"]
    for words in ("What changed", f"Against the test part of {NAME}", "macro AUC of benign, malignant",
                  "on an EXTERNAL set", "Nothing was chosen or fitted on it", "no image of class normal",
                  "macro AUC of the classes present", "not defined", "<li>None recorded as left out</li>",
                  "<strong>External</strong>: ", "as chosen on the validation part of",
                  f"python -m busfast evaluate --run={NAME} --data=data/far"):
        assert words in page, words
    assert not re.search(r"\bnan\b", page) and page.count('src="data:image/png') == 7
    shown = re.findall(r'<img src="data:image/jpeg[^>]* alt="([^"]+)"', page)
    assert shown and set(shown) <= set(read("predictions").query("part == 'external'")["image"])
    assert not (PLACE.results / "left_out.csv").exists() and "left_out.csv" not in page


def test_a_set_is_predicted_once_and_another_set_of_its_name_overwrites_nothing(scored, capsys):
    before = contents(PLACE.results)
    run("evaluate", f"--run={NAME}", "--data=data/far/table.csv")
    assert "were scored on these images on" in capsys.readouterr().out
    assert contents(PLACE.results).keys() == before.keys()
    run("evaluate", f"--run={NAME}", "--data=data/far", "--again", "--target=0.8",
        "--prevalence=.003")
    assert "EXTERNAL set, which has been scored twice" in capsys.readouterr().out
    assert set(read("operating_points")["target"]) == {0.8, 0.9} == set(read("predictive_values")["target"])
    assert set(read("predictive_values")["prevalence"]) == {0.003}
    run("evaluate", f"--run={NAME}", "--data=data/far")
    assert set(read("predictive_values")["prevalence"]) == {0.003}  # remembered, as the positive class is
    before = contents(PLACE.results)
    shutil.move("data/far", "data/moved")
    write_far(Path("data/far"), images=30)
    run("evaluate", f"--run={NAME}", "--data=data/far")
    other = Run(f"{NAME}/external/far-2")
    assert contents(PLACE.results) == before and len(read("predictions", other)) == 30 != len(read("predictions"))
    assert set(read("metrics", other).query("by == 'sex'")["value"]) == {"F", "M"}
    assert not np.isnan(estimates(other)["macro_auc"]) and "macro_auc_present" not in estimates(other)
    assert yaml.safe_load((PLACE.results / "evaluation.yaml").read_text())["evaluations"][0]["images"] > 20


def test_a_bundle_gives_the_same_scores_and_says_that_it_cannot_look_for_copies(scored, capsys):
    run("export", f"--run={NAME}")
    bundle = f"--model=models/{NAME}/bundle"
    run("evaluate", bundle, "--data=data/far")
    assert "copies of images that trained the model were not looked for" in capsys.readouterr().out
    place = Run(f"external/{NAME.replace('/', '_')}/far")
    assert estimates(place).to_numpy() == pytest.approx(estimates().to_numpy(), abs=1e-3, nan_ok=True)
    both = [read("operating_points", where).query("part == 'external'")["threshold"] for where in (place, PLACE)]
    assert both[0].unique() == pytest.approx(both[1].unique(), rel=1e-4)
    assert "test part" not in (place.results / "report.html").read_text()
    for flag, message in (("--positive=benign", "Choose from: malignant"), ("--target=0.5", "Choose from: 0.9")):
        run("evaluate", bundle, "--data=data/far", flag, code=2)
        assert message in capsys.readouterr().err


def test_a_run_that_was_not_evaluated_is_calibrated_on_its_validation_part_all_the_same(scored, capsys):
    wanted = read("calibration")
    assert wanted["score"].str.startswith("slope").any()
    (Run(NAME).results / "predictions.csv").unlink()
    shutil.rmtree(PLACE.results)
    run("evaluate", f"--run={NAME}", "--data=data/far")
    assert read("calibration")["temperature"].to_numpy() == pytest.approx(wanted["temperature"].to_numpy(), rel=1e-3)
    assert not (Run(NAME).results / "predictions.csv").exists()  # its test part was not scored
    assert f"Against the validation part of {NAME}, by which it was chosen" in capsys.readouterr().out


def test_a_positive_class_that_was_given_for_a_set_is_remembered_for_it(scored, capsys):
    for flags in (["--positive=benign"], [], ["--again"], ["--positive=malignant"], []):
        run("evaluate", f"--run={NAME}", "--data=data/far", *flags)
    said = re.findall(r"^  (\w+) if its probability is", capsys.readouterr().out, re.MULTILINE)
    assert said == ["benign"] * 3 + ["malignant"] * 2


@pytest.mark.parametrize(("flags", "message"), [
    ([f"--run={NAME}", "--data=data/phantom"], "is what phantom/center_holdout was trained on"),
    ([f"--run={NAME}", "--data=data/copies"], "nothing is left to score"),
    ([f"--run={NAME}", "--data=data/nowhere"], "There is no data folder 'data/nowhere'"),
    (["--data=data/far"], "evaluate needs --run=RUN"), (["--model=models/x"], "evaluate needs --run=RUN"),
    (["--model=models/x", "--data=data/far"], "There is no model 'models/x'"),
])
def test_what_cannot_be_scored_is_refused_and_nothing_is_written(scored, flags, message, capsys):
    if "copies" in flags[-1]:
        split = pd.read_csv(Run(NAME).results / "split.csv", dtype=str).query("part == 'train'").head(4)
        shutil.copytree("data/phantom", "data/copies")
        split[["image", "label"]].to_csv("data/copies/table.csv", index=False)
    run("evaluate", *flags, code=2)
    assert message in capsys.readouterr().err
    assert [path.name for path in (Run(NAME).results / "external").iterdir()] == ["far"]
