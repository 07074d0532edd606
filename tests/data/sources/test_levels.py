"""Folders between the set and its images are read as classes and patients, or asked about; never torn apart."""

import shlex

import pytest

from busfast.cli import main
from busfast.data.open_data import read_data
from busfast.data.sources import read_source
from busfast.data.table import read_table
from busfast.errors import UserError
from data.layouts import image, refusal

KINDS = ("adenosis", "fibroadenoma", "lobular", "mucinous")
LAYOUTS = {
    "class/patient": [f"{'ab'[p % 2]}/P{p:03}/{k}.png" for p in range(12) for k in range(2)],
    "class/patient/series": [f"{'ab'[p % 2]}/P{p:03}/{'40X' if k else '100X'}/{k}.png" for p in range(12)
                             for k in range(2)],
    "patient/class": [f"{p:05}/{p % 2}/{k}.png" for p in range(12) for k in range(2)],
    "patient/both classes": [f"{p:05}/{k}/{p}_{k}.png" for p in range(12) for k in range(2)],
    "known class/patient of the same numbers": [f"{'covid' if p % 2 else 'healthy'}/Patient ({p // 2 + 1})/{p}.png"
                                                for p in range(12)],
    "subtypes and patients": [f"{'benign' if p % 2 else 'malignant'}/SOB/{KINDS[p % 4]}/SOB_B-{p}AB/{m}/{p}.png"
                              for p in range(12) for m in ("40X", "100X")],
    "parts, patient/study": [f"train/XR_{'WH'[p % 2]}/patient{p:05}/study{k}_{('posi', 'nega')[p % 2]}tive/1.png"
                             for p in range(12) for k in (1, 2)],
    "patient/known class/images": [f"case {p}/{'benign' if p % 3 else 'malignant'}/images/{k}.png" for p in range(9)
                                   for k in (1, 2)],
}
PATIENTS = {"known class/patient of the same numbers": 6, "patient/known class/images": 9}


def make(root, names):
    for number, name in enumerate(names):
        image(root / name, (12 + number % 3, 9))
    return root


@pytest.mark.parametrize("layout", LAYOUTS)
def test_patients_are_recognised_wherever_their_folder_is_and_said(layout, tmp_path):
    table = read_source("folder", make(tmp_path, LAYOUTS[layout]))
    count = PATIENTS.get(layout, 12)
    assert table.rows["patient"].nunique() == count and table.rows["label"].nunique() == 2
    assert all(patient in image for patient, image in zip(table.rows["patient"], table.rows["image"], strict=True))
    assert any(f"{count} patients: the folders" in note for note in table.notes)
    direct = read_data(tmp_path)  # train --data=FOLDER and busfast.dataloaders read the same
    assert direct.rows[["label", "patient"]].equals(table.rows[["label", "patient"]])
    none = read_source("folder", tmp_path, patient_from="none").rows
    assert set(none["patient"]) == {""} and none["label"].equals(table.rows["label"])


def test_numbers_that_each_class_counts_anew_stay_on_one_side_and_the_way_out_works(tmp_path):
    table = read_source("folder", make(tmp_path, LAYOUTS["known class/patient of the same numbers"]))
    note = next(note for note in table.notes if "images of several classes" in note)
    pattern = shlex.split(note.partition("--patient_from=")[2])[0]
    apart = read_source("folder", tmp_path, patient_from=pattern)
    assert apart.rows["patient"].nunique() == 12 and apart.rows["label"].equals(table.rows["label"])


AMBIGUOUS = {
    "words in words": ([f"{a}/{b}/1.png" for a in ("anna", "bea") for b in ("x-ray", "photo")], "anna"),
    "classes or views around patients": ([f"{'AD' if a % 2 else 'CN'}/sub-{a:03}/{b}/1.png" for a in range(12)
                                          for b in ("rest", "task")], "AD"),
    "numbers below classes": ([f"{a}/{b}/1.png" for a in ("benign", "malignant") for b in "123"], "benign"),
    "many words below classes": ([f"{'benign' if b % 2 else 'malignant'}/{chr(97 + b) * 3}/1.png" for b in range(14)],
                                 "benign"),
    "few numbers above classes": ([f"{a}/{b}/1.png" for a in ("A1", "A2") for b in ("benign", "malignant")], "benign"),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_two_readings_are_asked_about_and_each_answer_is_taken(name, tmp_path):
    names, label = AMBIGUOUS[name]
    message = refusal("folder", make(tmp_path, names))
    assert "--patient_from=folder" in message
    with pytest.raises(UserError, match="patient_from"):
        read_data(tmp_path)
    folder, none = (read_source("folder", tmp_path, patient_from=answer).rows for answer in ("folder", "none"))
    assert label in set(folder["label"]) and (folder["patient"] != "").all()
    assert folder["label"].equals(none["label"]) and set(none["patient"]) == {""}
    if "(?P<patient>" in message:
        pattern = shlex.split(message[message.index("--patient_from=^") if "--patient_from=^" in message else
                                      message.index("--patient_from='"):])[0].partition("=")[2]
        other = read_source("folder", tmp_path, patient_from=pattern).rows
        assert set(other["label"]).isdisjoint(folder["label"]) and other["patient"].nunique() == len({
            name.split("/")[-3] for name in names})


def test_views_and_kinds_below_the_classes_are_no_patients(tmp_path):
    make(tmp_path, [f"{label}/{view}/{k}.png" for label in "ab" for view in ("left", "right", "cc") for k in range(3)])
    table = read_source("folder", tmp_path)
    assert set(table.rows["patient"]) == {""} and set(table.rows["label"]) == {"a", "b"}
    assert "mean neither a class nor a patient, and are not used" in "; ".join(table.notes)


def test_patients_are_found_in_file_names_by_a_pattern(tmp_path, monkeypatch, capsys):
    make(tmp_path / "set", [f"{'ab'[p % 2]}/P{p}_{k}.png" for p in range(4) for k in range(3)] + ["a/loose.png"])
    monkeypatch.chdir(tmp_path)
    hint = next(note for note in read_source("folder", "set").notes if "file names may ('P0' of 'a/P0_0.png'" in note)
    hinted = read_source("folder", "set", patient_from=shlex.split(hint)[-1].partition("=")[2])
    assert hinted.rows["patient"].nunique() == 5  # four, and none of a/loose.png
    assert main(["prepare", "--source=folder", "--path=set", "--out=out", r"--patient_from=/(P\d+)_"]) == 0
    assert read_table("out", ()).rows["patient"].value_counts().to_dict() == {"": 1} | {f"P{p}": 3 for p in range(4)}
    assert "1 paths do not match --patient_from, and have no patient, e.g. 'a/loose.png'" in capsys.readouterr().out


@pytest.mark.parametrize(("pattern", "said"), [
    ("(", "neither folder, none nor a regular expression"), ("P", "has 0 groups"), ("(a)(b)", "has 2 groups"),
    ("(nowhere)", "matches none of 2 paths"), ("folder", "besides the class folders there are none")])
def test_a_wrong_answer_is_refused(pattern, said, tmp_path):
    assert said in refusal("folder", make(tmp_path, ["a/1.png", "b/1.png"]), patient_from=pattern)


def test_a_center_above_patients_and_classes_is_not_lost_without_a_word(tmp_path):
    make(tmp_path, [f"Site {'XY'[p % 2]}/P{p}/{'benign' if p % 3 else 'malignant'}/1.png" for p in range(12)])
    command, other = refusal("folder", tmp_path).splitlines()
    assert command.endswith("--center='Site X,Site Y' --out=data/NAME") and other.startswith("If they are no centers: ")
    assert set(read_source("folder", tmp_path / "Site X").rows["patient"]) == {f"P{p}" for p in range(0, 12, 2)}
    table = read_source("folder", tmp_path, patient_from="folder")
    assert table.rows["patient"].nunique() == 12
    assert any("'Site X', 'Site Y' (2) mean neither" in note for note in table.notes)


def test_many_folders_of_few_images_may_be_patients_and_a_warning_says_so(tmp_path):
    table = read_source("folder", make(tmp_path, [f"{p:04}/{k}.png" for p in range(8) for k in range(2)]))
    assert any(note.startswith("warning: the 8 folders '0000', '0001', ..., of 2.0 images each, are read as classes")
               for note in table.notes)


def test_parts_may_lie_below_the_classes_and_have_other_names(tmp_path):
    make(tmp_path, [f"{label}/{part}/{label}{part}.png" for label in "ab" for part in ("Training set", "Testing_set")])
    table = read_source("folder", tmp_path)
    assert table.rows["label"].tolist() == list("aabb") and table.rows["original_split"].tolist() == [
        "test", "train"] * 2
    assert any("(valid is drawn from train)" in note for note in table.notes)
