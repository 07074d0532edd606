"""Images of several labels: read, split, trained, scored by label, exported, predicted; what cannot is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ARCH
from fastai.learner import load_learner
from PIL import Image, ImageDraw
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve, roc_auc_score

import busfast
from busfast.cli import main
from busfast.data.open_data import read_data
from busfast.errors import UserError
from busfast.inference.load_bundle import load_bundle
from busfast.pipelines.config import Config
from busfast.pipelines.read_images import read_images
from busfast.results.multi_label import best_f1, score_labels
from busfast.training.runs import Run

CLASSES = ["disc", "frame", "line"]
RUN = Run("shapes/stratified")
TINY = [f"--arch={ARCH}", "--weights=none", "--size=32", "--bs=16", "--device=cpu"]


def draw(path, labels, rng):
    image = Image.fromarray(rng.integers(0, 60, (40, 44, 3)).astype("uint8"))
    pen = ImageDraw.Draw(image)
    x, y = (int(value) for value in rng.integers(2, 18, 2))
    if "disc" in labels:
        pen.ellipse((x, y, x + 18, y + 18), fill="red")
    if "frame" in labels:
        pen.rectangle((0, 0, 43, 39), outline="green", width=4)
    if "line" in labels:
        pen.line((0, y, 43, y + 10), fill="blue", width=4)
    image.save(path)


def make_shapes(folder, count=150, write=lambda labels: ";".join(labels)):
    """A folder `shapes` with images and list.csv; two images a patient."""
    rng = np.random.default_rng(0)
    (folder / "shapes" / "images").mkdir(parents=True)
    lines = ["file,labels,patient_id"]
    for number in range(count):
        labels = [name for name in CLASSES if rng.random() < 0.45]
        draw(folder / "shapes" / "images" / f"{number}.png", labels, rng)
        lines.append(f"images/{number}.png,{write(labels)},p{number // 2}")
    (folder / "shapes" / "list.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a run, scored and exported; the fixture `place` is a copy of it."""
    folder = tmp_path_factory.mktemp("labels")
    make_shapes(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "--data=shapes", "--label_delim=;", "--epochs=4", "--lr=0.003", "--tta=flip",
                     "--then=evaluate", *TINY]) == 0
        assert main(["export", f"--run={RUN.name}", "--format=bundle,learner"]) == 0
    return folder


def test_every_label_is_learned_in_its_own_column(place):
    log = pd.read_csv(RUN.results / "training_log.csv")
    assert list(log)[1:8] == ["train_loss", "val_loss", "val_acc", "macro_auc", "recall_disc", "recall_frame",
                              "recall_line"]
    assert log["val_loss"].iloc[-1] < log["val_loss"].iloc[0] and log["macro_auc"].iloc[-1] > 0.6
    predictions = pd.read_csv(RUN.results / "predictions.csv", keep_default_na=False)
    assert predictions["label"].str.contains(";").any() and (predictions["label"] == "").any()
    probabilities = predictions[[f"p_{name}" for name in CLASSES]].to_numpy()
    logits = predictions[[f"logit_{name}" for name in CLASSES]].to_numpy()
    assert np.allclose(probabilities, 1 / (1 + np.exp(-logits)), atol=1e-6)
    assert not np.allclose(probabilities.sum(1), 1, atol=0.05)


def test_patients_stay_in_one_part_and_each_part_has_each_label(place):
    split = pd.read_csv(RUN.results / "split.csv", keep_default_na=False)
    assert split.groupby("patient")["part"].nunique().max() == 1
    for part in ("train", "valid", "test"):
        assert set(";".join(split.loc[split["part"] == part, "label"]).split(";")) >= set(CLASSES)


def test_the_scores_are_scikit_learns_with_thresholds_of_the_validation_part(place):
    metrics = pd.read_csv(RUN.results / "metrics.csv").query("by == 'all'").set_index(["part", "score"])
    thresholds = pd.read_csv(RUN.results / "thresholds.csv").set_index("class")["threshold"]
    predictions = pd.read_csv(RUN.results / "predictions.csv", keep_default_na=False)
    for part, rows in predictions.groupby("part"):
        aucs = []
        for name in CLASSES:
            truth = rows["label"].map(lambda label, name=name: name in label.split(";")).to_numpy()
            values = rows[f"p_{name}"].to_numpy()
            aucs.append(roc_auc_score(truth, values))
            assert metrics.loc[(part, f"auc_{name}"), "estimate"] == pytest.approx(aucs[-1], abs=1e-6)
            assert metrics.loc[(part, f"ap_{name}"), "estimate"] == pytest.approx(
                average_precision_score(truth, values), abs=1e-6)
            called = values >= thresholds[name] - 1e-9
            assert metrics.loc[(part, f"f1_{name}"), "estimate"] == pytest.approx(f1_score(truth, called), abs=1e-6)
            if part == "valid":
                precision, recall, _ = precision_recall_curve(truth, values)
                best = (2 * precision * recall / np.maximum(precision + recall, 1e-12)).max()
                assert f1_score(truth, called) == pytest.approx(best)
        assert metrics.loc[(part, "macro_auc"), "estimate"] == pytest.approx(np.mean(aucs), abs=1e-6)
        low, high = metrics.loc[(part, "macro_auc"), ["low", "high"]]
        assert low < np.mean(aucs) <= high


def test_bundle_learner_and_run_predict_the_same_labels(place, capsys):
    tables = []
    for words in ([f"--run={RUN.name}"], [f"--model={RUN.models}/bundle"],
                  [f"--model={RUN.models}/learner.pkl", "--trust"]):
        assert main(["predict", "shapes/images", *words, "--out=out.csv", "--overwrite"]) == 0
        tables.append(pd.read_csv("out.csv", keep_default_na=False))
    columns = [f"p_{name}" for name in CLASSES]
    for table in tables[1:]:
        assert np.allclose(table[columns], tables[0][columns], atol=1e-4)
    thresholds = pd.read_csv(RUN.results / "thresholds.csv").set_index("class")["threshold"]
    for table in tables[:2]:
        sure = (table[columns].to_numpy() - thresholds[CLASSES].to_numpy()).__abs__().min(1) > 1e-4
        wanted = [";".join(name for name in CLASSES if row[f"p_{name}"] >= thresholds[name])
                  for _, row in table.iterrows()]
        assert (table["predicted"][sure] == np.array(wanted)[sure]).all() and sure.sum() > 100
        assert (table["decision"] == "").all()
    assert "have no threshold" not in capsys.readouterr().out


def test_the_bundle_is_of_version_3_and_read_without_busfast(place):
    model, facts = load_bundle(RUN.models / "bundle")
    assert (facts["version"], facts["tta"], facts["label_delim"]) == ("3.0", "flip", ";")
    assert [point["target"] for point in facts["operating_points"]] == [None] * 3
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        logits, plain = model(x), model.model
        assert torch.allclose(logits.sigmoid(), (plain(x).sigmoid() + plain(x.flip(-1)).sigmoid()) / 2, atol=1e-6)
    learn = load_learner(RUN.models / "learner.pkl")
    label, _, probabilities = learn.predict(Path("shapes/images/0.png"))
    assert set(label) <= set(CLASSES) and len(probabilities) == 3
    for wrong in ({"tta": "turn"}, {"label_delim": 3}, {"label_delim": "ab"}):
        path = RUN.models / "bundle" / "bundle.json"
        path.write_text(json.dumps(facts | wrong))
        with pytest.raises(ValueError, match="tta is neither none nor flip, or label_delim is no character"):
            load_bundle(RUN.models / "bundle")


def test_another_set_is_scored_with_the_thresholds_of_the_run_or_its_bundle(place, capsys):
    table = pd.read_csv("shapes/list.csv", dtype=str, keep_default_na=False)
    images = pd.read_csv(RUN.results / "split.csv", dtype=str).query("part == 'test'")["image"]
    Path("far").mkdir()
    for name in images:
        shutil.copy(Path("shapes", name), "far")
    table["file"], table["labels"] = table["file"].str[7:], table["labels"].str.replace("line", "blob")
    table[table["file"].isin(images.str[7:])].to_csv("far/list.csv", index=False)
    places = (f"{RUN.name}/external/far", "external/shapes_stratified/far")
    for subject, name in zip((f"--run={RUN.name}", f"--model={RUN.models}/bundle"), places, strict=True):
        assert main(["evaluate", subject, "--data=far"]) == 0
        assert "EXTERNAL set" in (said := capsys.readouterr().out) and "no image of class line" in said
        metrics = pd.read_csv(Run(name).results / "metrics.csv").query("by == 'all'").set_index(["part", "score"])
        own = pd.read_csv(RUN.results / "metrics.csv").query("by == 'all'").set_index(["part", "score"])["estimate"]
        assert metrics.loc[("external", "auc_disc"), "estimate"] > 0.6 > own.isna().sum()
        assert np.isnan(metrics.loc[("external", "auc_line"), "estimate"])
        assert pd.read_csv(Run(name).results / "thresholds.csv")["threshold"].to_numpy() == pytest.approx(
            pd.read_csv(RUN.results / "thresholds.csv")["threshold"].to_numpy(), rel=1e-4)


@pytest.mark.parametrize("line", [
    f"explain --run={RUN.name}", f"report --run={RUN.name}", f"demo --model={RUN.models}/bundle --port=0",
    f"ensemble --runs={RUN.name},{RUN.name}-2", f"evaluate --run={RUN.name} --positive=disc",
    f"predict shapes/images --model={RUN.models}/bundle --target=0.9 --out=x.csv",
    "train --data=shapes --label_delim=; --then=evaluate,report"])
def test_what_is_for_one_label_is_refused(place, line, capsys, monkeypatch):
    monkeypatch.setattr("busfast.demo.require_package", lambda *_: None)  # Gradio, which is asked for first
    if line.startswith("ensemble"):
        assert main(["train", "--data=shapes", "--label_delim=;", "--epochs=1", *TINY]) == 0
    assert main(line.split()) == 2
    assert "label" in capsys.readouterr().err


def test_compare_and_seeds_take_them(place, capsys):
    assert main(["train", "--data=shapes", "--label_delim=;", "--epochs=1", "--seeds=2", "--then=all", *TINY]) == 0
    said = capsys.readouterr().out
    assert "shapes/stratified-seeds: 2 seeds" in said and said.count("Research only, not a medical device.") == 1
    assert pd.read_csv("results/compare.csv")["test_macro_auc"].notna().all()
    assert len(list(Path("models/shapes").glob("stratified-seed*/bundle"))) == 2


@pytest.fixture
def shapes(tmp_path, monkeypatch):
    make_shapes(tmp_path)
    monkeypatch.chdir(tmp_path)


def test_lists_that_split_writes_are_taken_and_the_audit_shows_combinations(shapes, capsys):
    assert main(["split", "--data=shapes", "--label_delim=;", "--out=lists"]) == 0
    assert main(["train", "--data=shapes", "--label_delim=;", "--split=lists/stratified.csv", "--epochs=1", *TINY]) == 0
    assert main(["audit", "--data=shapes", "--label_delim=;", "--out=audit"]) == 0
    assert "audit of shapes: 150 images" in capsys.readouterr().out


def test_separators_that_are_not_announced_are_refused_with_the_flag(shapes, capsys):
    lines = Path("shapes/list.csv").read_text().splitlines()
    Path("shapes/list.csv").write_text("\n".join(line for line in lines if ",," not in line) + "\n")
    for verb in (["train", *TINY], ["audit"], ["split"]):
        assert main([*verb, "--data=shapes"]) == 2
    assert capsys.readouterr().err.count("looks like several labels, as do those of") == 3
    assert main(["train", "--data=shapes", "--label_delim=|", *TINY]) == 2
    assert "label_delim='|' separates no labels of" in capsys.readouterr().err


def one_hot(folder, rows):
    (folder / "hot.csv").write_text("\n".join(["image,disc,frame,age", *rows]) + "\n")
    for row in rows:
        Image.new("RGB", (8, 8)).save(folder / row.split(",")[0])


def test_columns_of_0_and_1_are_labels(tmp_path):
    one_hot(tmp_path, ["a.png,1,0,30", "b.png,0.0,1.0,31"])
    table = read_data(tmp_path / "hot.csv")
    assert table.rows["label"].tolist() == ["disc", "frame"] and "labels from the columns disc, frame" in table.notes[1]
    one_hot(tmp_path, ["a.png,1,0,30", "b.png,1,1,31", "c.png,0,0,32"])
    with pytest.raises(UserError, match="row 3: of the columns disc, frame, which hold 0 and 1, disc and frame are 1"):
        read_data(tmp_path / "hot.csv")
    table, config = read_images(Config(data=str(tmp_path / "hot.csv"), label_delim=";"))
    assert table.rows["label"].tolist() == ["disc", "disc;frame", ""] and config.classes == ("disc", "frame")


def test_labels_are_written_in_one_way_and_order(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
    (tmp_path / "list.csv").write_text("image,label\na.png,Line | disc|disc\nb.png,line\n")
    table, config = read_images(Config(data=str(tmp_path), label_delim="|"))
    assert table.rows["label"].tolist() == ["Line|disc", "Line"] and config.classes == ("Line", "disc")
    table, config = read_images(Config(data=str(tmp_path), label_delim="|", classes=("disc", "Line")))
    assert config.classes == ("disc", "Line") and table.rows["label"].tolist() == ["disc|Line", "Line"]
    with pytest.raises(UserError, match="No image has the label 'dics'"):
        read_images(Config(data=str(tmp_path), label_delim="|", classes=("dics", "Line")))


def test_python_has_them_too(shapes):
    dls = busfast.dataloaders("shapes", size=32, label_delim=";", bs=16, device="cpu", cache="off")
    x, y = dls.one_batch()
    assert y.shape == (16, 3) and y.dtype == torch.float32 and set(y.unique().tolist()) == {0.0, 1.0}
    learn = busfast.learner(dls, ARCH, weights="none")
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(1, 1e-3)
        probabilities, targets = learn.get_preds()
    assert probabilities.shape == targets.shape and (probabilities >= 0).all() and (probabilities <= 1).all()
    frame = read_data("shapes", label_delim=";").rows.assign(image=lambda rows: "shapes/" + rows["image"])
    assert busfast.dataloaders(frame[["image", "label"]], size=32, label_delim=";", device="cpu").vocab == dls.vocab
    with pytest.raises(UserError, match="looks like several labels"):
        busfast.dataloaders(frame[frame["label"] != ""][["image", "label"]], size=32)


def test_the_best_threshold_and_undefined_scores():
    positive = np.array([True, True, False, False])
    assert best_f1(positive, np.array([0.9, 0.6, 0.6, 0.1])) == 0.6  # calls three: F1 .8
    assert best_f1(positive & False, np.ones(4)) == 0.5
    found = score_labels(np.array([[True, False], [False, False]]), np.array([[0.8, 0.2], [0.3, 0.4]]),
                         np.array([0.5, 0.5]), np.ones((1, 2)), ["a", "b"])
    assert found["macro_auc"] == found["auc_a"] == 1 and np.isnan(found["auc_b"])
