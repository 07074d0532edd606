"""What predict says on screen is what it wrote."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from busfast.cli import main
from busfast.csvfile import write_csv
from busfast.inference.predictor import load_predictor
from busfast.inference.summary import summarize_predictions


def predict(bundle, *inputs, out="out.csv"):
    assert main(["predict", *map(str, inputs), f"--model={bundle}", f"--out={out}", "--overwrite"]) == 0
    with open(out, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_one_image_is_answered_and_several_are_counted_however_they_are_named(exported_bundle, capsys):
    images = sorted(Path("data/phantom/images").iterdir())
    row, = predict(exported_bundle, images[0])
    out = capsys.readouterr().out
    best = max(("normal", "benign", "malignant"), key=lambda name: float(row[f"p_{name}"]))
    assert f"  {images[0]}: {best}; probabilities: {best} {float(row[f'p_{best}']):.3f}, " in out
    assert f"  decision: {row['decision']} (threshold for malignant: 0." in out and "out.csv: 1 row\n" in out
    assert ", chosen on validation for a sensitivity of 0.9)\n" in out and "outlier" not in out
    rows = predict(exported_bundle, *images, out="all.csv")  # what a shell makes of images/*
    said = capsys.readouterr().out
    assert [row["image"] for row in rows] == list(map(str, images)) and rows[0] == row
    assert predict(exported_bundle.parent, images[0].parent) == rows  # models/RUN has its bundle in it
    counts = {name: sum(row["predicted"] == name for row in rows) for name in ("normal", "benign", "malignant")}
    line, = [line for line in said.splitlines() if line.startswith("  predicted: ")]
    assert all(f"{count} {name}" in line for name, count in counts.items() if count)
    assert f"  predicted: {line[13:]}" in capsys.readouterr().out
    assert re.search(r"  decision: .*malignant \(threshold for malignant: 0\.\d+, chosen on validation for a s", said)
    assert "  unlike the training images (column outlier above 1): 0 of 8 images\n" in said


@pytest.mark.parametrize(("scores", "said"), [
    ({"macro_auc": [0.6, 0.4321, 0.8]}, True), ({"macro_auc": [0.6, 0.5, 0.8]}, True), ({"macro_auc": [0, 0, 1]}, True),
    ({"macro_auc": [0.6, 0.51, 0.8]}, False), ({"macro_auc": [0.6, None, None]}, False), ({"macro_auc": "high"}, False),
    ({}, False)])
def test_a_model_that_is_not_shown_to_be_better_than_chance_is_said_to_be(exported_bundle, scores, said, capsys):
    path = exported_bundle / "bundle.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps(facts | {"metrics": facts["metrics"] | {"scores": scores}}))
    predict(exported_bundle, *sorted(Path("data/phantom/images").iterdir())[:1])
    assert ("the model is not shown to be better than chance" in capsys.readouterr().out) == said


def test_an_image_unlike_the_training_images_is_said_to_be(exported_bundle, tmp_path):
    predictor = load_predictor(exported_bundle)
    row = dict.fromkeys(predictor.columns, "") | {
        "image": "cat.png", "status": "ok", "predicted": "benign", "p_normal": "0.2", "p_benign": "0.7",
        "p_malignant": "0.1", "decision": "not malignant", "outlier": "1.500"}
    write_csv(pd.DataFrame([row]), tmp_path / "one.csv")
    assert summarize_predictions(tmp_path / "one.csv", predictor)[-1] == (
        "  but it is unlike the training images (outlier 1.500): do not rely on this")
    unread = dict.fromkeys(predictor.columns, "") | {"image": "b.png", "status": "unreadable", "reason": "cut"}
    write_csv(pd.DataFrame([row, row | {"outlier": "0.3"}, unread]), tmp_path / "many.csv")
    assert summarize_predictions(tmp_path / "many.csv", predictor) == [
        "  predicted: 2 benign", "  decision: 2 not malignant (threshold for malignant: "
        f"{predictor.operating_points[0]['threshold']:.3f}, chosen on validation for a sensitivity of 0.9)",
        "  unlike the training images (column outlier above 1): 1 of 2 images",
        "  unreadable, the first of them: b.png: cut"]


def test_counts_are_in_the_order_of_the_classes(exported_bundle, tmp_path):
    predictor = replace(load_predictor(exported_bundle), classes=("malignant", "normal", "benign"))
    row = dict.fromkeys(predictor.columns, "") | {"image": "a.png", "status": "ok"}
    write_csv(pd.DataFrame([row | {"predicted": name} for name in ("benign", "normal", "benign", "malignant")]),
              tmp_path / "many.csv")
    assert summarize_predictions(tmp_path / "many.csv", predictor)[0] == "  predicted: 1 malignant, 1 normal, 2 benign"


@pytest.mark.parametrize(("predicted", "decision", "differ"), [
    ("benign", "malignant", True), ("malignant", "not malignant", True), ("benign", "not malignant", False),
    ("malignant", "malignant", False), ("benign", "", False)])
def test_why_a_decision_contradicts_the_predicted_class_is_said(exported_bundle, tmp_path, predicted, decision, differ):
    predictor = load_predictor(exported_bundle)
    row = dict.fromkeys(predictor.columns, "") | {
        "image": "a.png", "status": "ok", "predicted": predicted, "p_normal": "0.2", "p_benign": "0.5",
        "p_malignant": "0.3", "decision": decision}
    same = row | {"predicted": "benign", "decision": decision and "not malignant"}
    for name, rows in {"one.csv": [row], "many.csv": [row, same, same]}.items():
        write_csv(pd.DataFrame(rows), tmp_path / name)
        said = [line for line in summarize_predictions(tmp_path / name, predictor) if "differs from the most" in line]
        assert len(said) == differ and all("probability of malignant reaches its threshold" in line for line in said)
        assert not said or said[0].startswith("  of 1 image, " if name == "many.csv" else "  the decision")
