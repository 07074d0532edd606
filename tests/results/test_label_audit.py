"""Labels that are probably wrong are listed by models that did not see them, and a person's decisions are heeded.

Covers busfast/data/label_page.py and busfast/cli/data.py (audit --labels, --run), too.
"""

import re
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import write_pipeline

from busfast.cli import main
from busfast.data.duplicate_pairs import NO_DUPLICATES
from busfast.data.phantom import write_phantom
from busfast.data.split import Split
from busfast.results import label_audit
from busfast.results.ensemble import _join_splits
from busfast.results.label_audit import find_issues
from busfast.training import turns
from busfast.training.runs import Run

CLASSES = ("normal", "benign", "malignant")
FOLDS = ["phantom/kfold-1of2", "phantom/kfold-2of2"]
LABELS = "data/phantom/audit/labels.csv"
AUDIT = "audit --run=phantom/kfold-2folds"


def run(line, code=0):
    assert main(line.split()) == code


def read(path):
    return pd.read_csv(path, keep_default_na=False)


def write(*decisions):
    with open(LABELS, "w") as file:
        file.writelines(["image,decision\n", *(f"{image},{decision}\n" for image, decision in decisions)])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two folds of a phantom in which two images have the same pixels and different labels."""
    place = tmp_path_factory.mktemp("folds")
    table = write_phantom(place / "data" / "phantom", images=90)
    rows = read(table)
    one, other = (rows["image"][rows["label"] == label].iloc[0] for label in ("benign", "malignant"))
    shutil.copy(table.parent / one, table.parent / other)
    (table.parent / "audit").mkdir()
    write_pipeline(place, "data/phantom")
    with open(place / "pipelines" / "phantom.yaml", "a") as file:
        file.write("folds: 2\nsplits: [kfold]\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        run("train --split=kfold --epochs=1")
    return place


@pytest.fixture
def cleanlab():
    return pytest.importorskip("cleanlab")


def test_each_label_is_judged_by_the_fold_that_has_its_image_in_the_test_part(place, cleanlab, capsys):
    before = (place / "data" / "phantom" / "table.csv").read_bytes()
    run(AUDIT)
    listed = read(LABELS)
    tests = pd.concat(read(Run(name).results / "predictions.csv").query("part == 'test'") for name in FOLDS)
    assert len(tests) == tests["image"].nunique() == 90
    tests = tests.set_index("image")
    for row in listed.itertuples():
        p = tests.loc[row.image]
        assert (row.given, row.suggested) == (p["label"], p["predicted"])
        assert (row.p_given, row.p_suggested) == pytest.approx((p[f"p_{row.given}"], p[f"p_{row.suggested}"]), rel=1e-5)
    first = listed[:2]
    assert set(first["given"]) == {"benign", "malignant"} and first["reason"].str.startswith("identical to ").all()
    by_model = listed[listed["reason"] == "model"]
    assert len(by_model) and by_model["p_given"].is_monotonic_increasing
    assert (by_model["given"] != by_model["suggested"]).all()
    said = capsys.readouterr().out
    assert f"{len(listed)} of 90 labels may be wrong" in said
    assert "This was a look at the test part of 2 folds; evaluation.yaml of each counts it." in said
    page = (place / "data" / "phantom" / "audit" / "labels.html").read_text()
    assert page.count('class="pair"') == len(listed) and "<script" not in page and "http" not in page
    cards = page.split('class="pair"')[1:]
    assert all(card.count("data:image/jpeg;base64,") == 4 for card in cards)
    assert f"{first['given'][1]}, 1.00" in cards[0]  # the copy, with its own label, is the nearest
    assert (place / "data" / "phantom" / "table.csv").read_bytes() == before
    assert yaml.safe_load((Run(FOLDS[0]).results / "evaluation.yaml").read_text())["test_scored"] == 1
    run(AUDIT)
    assert "This was a look" not in capsys.readouterr().out  # the predictions are reused


@pytest.mark.parametrize("guesses", [True, False])
def test_a_list_by_models_that_guess_is_said_to_mean_nothing(place, cleanlab, monkeypatch, capsys, guesses):
    rows = read("data/phantom/table.csv")
    most = rows["label"].value_counts().index[0]
    p = np.eye(3)[[CLASSES.index(most if guesses else label) for label in rows["label"]]] * 0.7 + 0.1
    rows = rows.assign(predicted=most if guesses else rows["label"], **dict(zip(map("p_{}".format, CLASSES), p.T,
                                                                               strict=True)))
    monkeypatch.setattr(label_audit, "_predict", lambda *_: rows)
    run(AUDIT)
    page = (place / "data" / "phantom" / "audit" / "labels.html").read_text()
    for text in (capsys.readouterr().out, page):
        assert (f"no better than guessing (always {most}: " in text) == guesses
        assert ("this list means nothing yet" in text) == guesses


def test_decisions_survive_the_next_audit_and_are_heeded_but_for_the_test_part(place, cleanlab, capsys):
    run("split --split=stratified")
    rows = read("data/phantom/splits/stratified.csv").set_index("image")
    train_part, tested = (rows[rows["part"] == part] for part in ("train", "test"))
    malignant = train_part.index[train_part["label"] == "benign"][:2]
    decided = [(malignant[0], "malignant"), (malignant[1], "drop"), (tested.index[0], "drop"), ("gone.png", "keep")]
    write(*decided)
    run(AUDIT)
    listed = read(LABELS)
    assert dict(zip(listed["image"], listed["decision"], strict=True)).items() >= dict(decided).items()
    assert (listed["decision"] != "").sum() == 4
    capsys.readouterr()
    run("train --split=stratified --epochs=1")
    assert f"{LABELS}: 1 image of train and valid dropped, 1 label corrected; 1 decision" in capsys.readouterr().out
    again = read("results/phantom/stratified/split.csv").set_index("image")
    changed = again[(again[["label", "part"]] != rows[["label", "part"]]).any(axis=1)]
    assert changed[["label", "part"]].to_dict("index") == {malignant[0]: {"label": "malignant", "part": "train"},
                                                           malignant[1]: {"label": "benign", "part": "unused"}}
    record = yaml.safe_load(open("results/phantom/stratified/config.yaml"))["run"]["label_decisions"]
    assert (record["dropped"], record["corrected"], record["kept_in_test"]) == (1, 1, 1)
    for more, warned in ([("gone.png", "keep")], False), ([(train_part.index[-1], "drop")], True):
        write(*decided[:3], *more)  # the first: another file, with the same effect
        run("train --split=stratified --epochs=1 --resume")
        assert ("is finished; nothing is left to do. WARNING: it was started with other decisions about labels (1 "
                f"dropped, 1 corrected) than {LABELS} has now (2 dropped, 1 corrected)" in capsys.readouterr().out
                ) == warned
    run("split --split=stratified")
    assert "unchanged data/phantom/splits/stratified.csv" in capsys.readouterr().out  # with the table's labels


def test_finished_folds_that_did_not_heed_what_was_decided_since_say_so(place, capsys):
    run("train --split=kfold --epochs=1 --resume")
    assert (said := capsys.readouterr().out).count("nothing is left to do\n") == 1 and "WARNING" not in said
    assert all(f"phantom/kfold-{fold}of2" in said for fold in (1, 2))
    write((read("data/phantom/table.csv")["image"][0], "drop"))
    run("train --split=kfold --epochs=1 --resume")
    said = capsys.readouterr().out
    assert said.count(f"about labels (none) than {LABELS} has now (1 dropped, 0 corrected)") == 1  # the other tests it
    assert said.count("train without --resume to heed those of now") == 1


def test_labels_trains_the_folds_with_the_settings_of_the_pipeline_file(place, cleanlab, monkeypatch):
    asked = []

    def train_run(pipeline, config, name, split, options):
        asked.append((config.epochs, split.name))
        return Run(f"{pipeline}/{name}")

    monkeypatch.setattr(turns, "train_run", train_run)
    run("audit --labels --data=data/phantom --out=there")
    assert asked == [(2, "kfold"), (2, "kfold")]
    assert len(read("there/labels.csv")) and not (place / LABELS).exists()


@pytest.mark.parametrize(("break_it", "line", "said"), [
    (lambda: shutil.rmtree(Run(FOLDS[1]).results), f"audit --run={FOLDS[0]}",
     f"Of the folds that belong to {FOLDS[0]}, none or one are finished"),
    (lambda: write(("a.png", "cancer")), AUDIT, f"{LABELS}, row 2, column decision: 'cancer' is unknown"),
    (lambda: write(("a.png", "cancer")), "train --split=kfold", f"{LABELS}, row 2, column decision: 'cancer'"),
    (lambda: open("data/phantom/table.csv", "a").write("\n"), AUDIT, "table.csv was changed since"),
    (lambda: None, "audit --run=phantom/kfold-3folds", "There is no run 'phantom/kfold-3folds'"),
    (lambda: None, "audit --run=phantom", "is a pipeline. Name one of its groups of folds: phantom/kfold-2folds."),
    (lambda: None, "audit --labels --folds=2", "write folds: VALUE into it and name it, --pipeline=FILE"),
    (lambda: None, f"{AUDIT} --labels", "--labels does not apply to --run"),
    (lambda: None, f"{AUDIT} --data=data/phantom", "--data does not apply to --run"),
    (lambda: None, "audit --labels --quarantine", "--quarantine does not apply to --labels")])
def test_what_cannot_be_audited_is_said(place, monkeypatch, break_it, line, said, capsys):
    monkeypatch.setitem(sys.modules, "cleanlab", sys.modules[__name__])  # as if it were installed
    monkeypatch.setattr(sys.modules[__name__], "__spec__", object())
    break_it()
    run(line, code=2)
    assert said in capsys.readouterr().err


def test_a_run_of_another_split_and_an_image_that_changed_are_refused(place, cleanlab, capsys):
    config = Run(FOLDS[0]).results / "config.yaml"
    text = config.read_text()
    config.write_text(text.replace("split: kfold", "split: stratified"))
    run(f"audit --run={FOLDS[0]}", code=2)
    assert "is no fold of a k-fold split" in (said := capsys.readouterr().err)
    assert "audit --labels --data=data/phantom" in said
    config.write_text(text)
    rows = read(Run(FOLDS[0]).results / "split.csv")
    first, second = rows["image"][rows["part"] == "test"][:2]
    shutil.copy(f"data/phantom/{second}", f"data/phantom/{first}")
    run(AUDIT, code=2)
    assert re.search(f"of {FOLDS[0]} changed since it was trained, such as ({first}|{second})", capsys.readouterr().err)


def test_folds_that_leave_an_image_out_are_refused(place, cleanlab, capsys):
    split = Run(FOLDS[1]).results / "split.csv"
    rows = read(split)
    image = rows["image"][rows["part"] == "test"].iloc[0]
    rows.assign(part=rows["part"].mask(rows["image"] == image, "unused")).to_csv(split, index=False)
    run(AUDIT, code=2)
    assert f"do not cover the set: {image} is in the test part of 0 of them (1 such image)" in capsys.readouterr().err


def test_without_cleanlab_the_command_that_installs_it_is_named_before_anything_is_trained(place, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    monkeypatch.setattr("busfast.imports.is_installed", lambda module: False)
    run("audit --labels", code=2)
    assert "An audit of labels needs cleanlab: pip install cleanlab" in capsys.readouterr().err
    assert not (place / "results" / "phantom" / "kfold-1of2-2").exists()


def test_labels_that_sure_models_contradict_are_found_and_others_are_not(cleanlab):
    truth = np.arange(300) % 3
    given = truth.copy()
    given[:12] = (given[:12] + 1) % 3
    p = np.full((300, 3), 0.05)
    p[np.arange(300), truth] = 0.9 - np.arange(300) / 3000
    rows = pd.DataFrame(p / p.sum(1, keepdims=True), columns=[f"p_{name}" for name in CLASSES])
    rows = rows.assign(image=[f"{row:03}" for row in range(300)], label=np.array(CLASSES, object)[given])
    found = find_issues(rows, CLASSES, NO_DUPLICATES, {"299": "keep"})
    assert found["image"].tolist() == [f"{row:03}" for row in range(12)] + ["299"]
    assert found["suggested"][:12].tolist() == [CLASSES[row] for row in truth[:12]]
    copies = NO_DUPLICATES.assign(a=[50, 60, 70], b=[51, 61, 73], kind=["identical", "near-duplicate", "identical"])
    found = find_issues(rows, CLASSES, copies, {})
    assert found["image"][:4].tolist() == ["051", "050", "061", "060"] and len(found) == 16  # 70 and 73 agree
    assert found["reason"][0] == "identical to 050 (malignant)"


def test_an_ensemble_of_folds_takes_the_corrected_labels_that_trained_its_members():
    def split(*rows):
        return Split(pd.DataFrame(rows, columns=["image", "label", "part"]))

    joined = _join_splits([split(("a", "benign", "test"), ("b", "benign", "train"), ("c", "normal", "test")),
                           split(("a", "malignant", "train"), ("b", "benign", "test"), ("c", "normal", "unused"))])
    assert sorted(joined.rows.itertuples(index=False, name=None)) == [
        ("a", "malignant", "train"), ("b", "benign", "train"), ("c", "normal", "unused")]
