"""A bundle holds a model and its description in files without code; a changed bundle is refused."""

import errno
import json
import math
import os
import re
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from busfast.cli import main
from busfast.inference.bundle import atomic_folder

RUN = "phantom/stratified"
IMAGES = Path("data/phantom/images")
CLASSES = ["p_normal", "p_benign", "p_malignant"]


def predict(inputs, *words) -> pd.DataFrame:
    assert main(["predict", str(inputs), *words, "--out=out.csv", "--overwrite"]) == 0
    return pd.read_csv("out.csv", keep_default_na=False)


def test_export_prints_how_far_the_forms_are_apart(exported_run, capsys):
    pytest.importorskip("onnxscript")
    assert main(["export", f"--run={RUN}", "--format=onnx,learner"]) == 0
    out = capsys.readouterr().out
    pairs = re.findall(r"^  ([\w ]+) - ([\w ]+?) +(\d\.\de-\d\d)$", out, re.MULTILINE)
    named = {name for one, other, _ in pairs for name in (one, other)}
    assert named == {"training process", "learner", "bundle", "onnx"}
    assert len(pairs) == 6 and max(float(apart) for *_, apart in pairs) <= 1e-4


def test_the_bundle_the_learner_and_onnx_predict_as_the_run_does(exported_run, capsys):
    images = IMAGES
    run = predict(images, f"--run={RUN}")
    facts = json.loads(Path(f"models/{RUN}/bundle/bundle.json").read_text())
    threshold = facts["operating_points"][0]["threshold"]
    forms = {"bundle": [f"--model=models/{RUN}/bundle"]}
    if "model.onnx" in facts["files"]:
        forms["onnx"] = [f"--model=models/{RUN}/bundle", "--engine=onnx"]
    for words in forms.values():
        rows = predict(images, *words)
        assert (rows[CLASSES].astype(float) - run[CLASSES].astype(float)).abs().to_numpy().max() <= 1e-4
        sure = (run["p_malignant"].astype(float) - threshold).abs() > 1e-4
        wanted = np.where(run["p_malignant"].astype(float) >= threshold, "malignant", "not malignant")
        assert (rows["decision"] == wanted)[sure].all() and sure.any()
        assert (rows["outlier"].astype(float) > 0).all()
    learner = predict(images, f"--model=models/{RUN}/learner.pkl", "--trust")
    logits = np.log(learner[CLASSES].astype(float).to_numpy())
    calibrated = torch.tensor(logits / facts["temperature"]).softmax(1).numpy()
    assert np.abs(calibrated - run[CLASSES].astype(float).to_numpy()).max() <= 1e-4


@pytest.mark.parametrize(("low", "said"), [(0.4321, True), (0.51, False)])
def test_a_run_that_is_not_shown_to_be_better_than_chance_is_said_to_be(exported_run, low, said, capsys):
    path = Path("results") / RUN / "metrics.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table.loc[(table["part"] == "test") & (table["by"] == "all") & (table["score"] == "macro_auc"), "low"] = str(low)
    table.to_csv(path, index=False)
    predict(sorted(IMAGES.iterdir())[0], f"--run={RUN}")
    line = "not shown to be better than chance: the interval of its macro AUC on the test part begins at 0.432"
    assert (line in capsys.readouterr().out) == said


def test_the_bundle_says_what_evaluate_found(exported_run):
    facts = json.loads(Path(f"models/{RUN}/bundle/bundle.json").read_text())
    calibration = pd.read_csv(f"results/{RUN}/calibration.csv")
    assert facts["temperature"] == pytest.approx(calibration["temperature"][0], rel=1e-5)
    points = pd.read_csv(f"results/{RUN}/operating_points.csv").query("part == 'test' and score == 'sensitivity'")
    assert facts["operating_points"][0]["threshold"] == pytest.approx(points["threshold"].iloc[0], rel=2e-5)
    metrics = pd.read_csv(f"results/{RUN}/metrics.csv").query("part == 'test' and by == 'all'").set_index("score")
    assert facts["metrics"]["scores"]["macro_auc"] == pytest.approx(
        [None if math.isnan(value) else value for value in metrics.loc["macro_auc", ["estimate", "low", "high"]]],
        abs=1e-5)
    assert facts["run"]["phantom"] and "not a medical device" in facts["intended_use"]
    assert str(exported_run) not in json.dumps(facts) and "/" not in facts["run"]["config"]["data"]


def flip(bundle):
    data = bytearray((bundle / "weights.safetensors").read_bytes())
    data[-5] ^= 1
    (bundle / "weights.safetensors").write_bytes(data)


@pytest.mark.parametrize(("spoil", "message"), [
    (flip, "weights.safetensors was changed since the export: its checksum differs"),
    (lambda bundle: (bundle / "weights.safetensors").unlink(), "No such file"),
    (lambda bundle: (bundle / "bundle.json").unlink(), "is not a bundle"),
])
def test_a_bundle_that_was_changed_is_refused(exported_bundle, spoil, message, capsys):
    """tests/security/test_bundles.py has all other ways."""
    spoil(exported_bundle)
    assert main(["predict", str(IMAGES), f"--model={exported_bundle}"]) == 2
    assert message in capsys.readouterr().err
    assert not Path("predictions.csv").exists()


def test_a_pickle_is_refused_unless_it_is_trusted(exported_bundle, exported_once, capsys):
    assert main(["predict", str(IMAGES), f"--model={exported_once / 'models' / RUN / 'learner.pkl'}"]) == 2
    assert "is a pickle: loading it runs any code in it" in capsys.readouterr().err


def test_an_operating_point_is_chosen_by_its_sensitivity(exported_bundle, capsys):
    assert main(["predict", str(IMAGES), f"--model={exported_bundle}", "--target=0.7"]) == 2
    assert ("target=0.7: the model has no threshold for that sensitivity, only for 0.9. To have one: python -m busfast "
            "export --run=RUN --target=0.7") in capsys.readouterr().err


def test_a_form_that_disagrees_is_not_handed_over(exported_run, monkeypatch, capsys):
    from busfast.results import export as results_export

    before = {path: path.stat().st_mtime_ns for path in Path("models").rglob("*")}
    monkeypatch.setattr(results_export, "TOLERANCE", -1.0)
    assert main(["export", f"--run={RUN}", "--format=bundle,learner"]) == 2
    assert "nothing was written" in capsys.readouterr().err
    after = {path: path.stat().st_mtime_ns for path in Path("models").rglob("*")}
    assert {path: time for path, time in before.items() if path.is_file()} == {
        path: time for path, time in after.items() if path.is_file()}


def test_a_folder_that_cannot_be_written_is_said_and_keeps_what_it_has(exported_run, monkeypatch, capsys):
    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    before = {path: path.stat().st_mtime_ns for path in Path("models").rglob("*")}
    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    for form in ("bundle", "learner"):
        assert main(["export", f"--run={RUN}", f"--format={form}"]) == 2
        assert "Read-only file system" in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in Path("models").rglob("*")}


def test_a_folder_takes_its_place_only_when_all_went_well(tmp_path):
    with atomic_folder(tmp_path / "new") as fresh:
        (fresh / "one").write_text("1")
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "new") as fresh:
        (fresh / "two").write_text("2")
        raise ZeroDivisionError
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == ["new", "new/one"]
    with atomic_folder(tmp_path / "new") as fresh:
        (fresh / "two").write_text("2")
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == ["new", "new/two"]
