"""Of a labelled set from elsewhere, what a model cannot be scored on is left out and counted, or refused."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageEnhance

from busfast.data.check import inspect_images
from busfast.data.external_set import leave_out_copies, read_set
from busfast.data.phantom import write_phantom
from busfast.data.split import Split
from busfast.data.table import read_table
from busfast.errors import UserError

CLASSES = ("benign", "malignant")


def write_set(folder, labels, seed=0):
    """A CSV file with a smooth random picture for each label."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    for number in range(len(labels)):
        coarse = Image.fromarray(rng.integers(0, 255, (9, 9), "uint8"))
        coarse.resize((96, 80), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    rows = pd.DataFrame({"image": [f"{number}.png" for number in range(len(labels))], "label": labels})
    rows.assign(center="far", patient=[f"p{number // 2}" for number in range(len(labels))]).to_csv(
        folder / "table.csv", index=False)
    return str(folder)


def test_labels_are_read_as_the_models_classes_and_others_are_left_out_and_counted(tmp_path):
    data = write_set(tmp_path / "far", ["Benign", "MALIGNANT", "cyst", "cyst", "benign", "other"])
    table, left_out, notes = read_set(data, CLASSES)
    assert table.rows["label"].tolist() == ["benign", "malignant", "benign"]
    assert left_out["image"].tolist() == ["2.png", "3.png", "5.png"] and set(left_out["reason"]) == {"unknown label"}
    assert "labels that the model does not know: cyst (2), other (1); images with no other are left out" in notes


def test_of_several_labels_those_that_the_model_does_not_know_do_not_count(tmp_path):
    data = write_set(tmp_path / "far", ["Line;disc", "disc;blob", "", "blob"])
    table, left_out, notes = read_set(data, ("disc", "line"), ";")
    assert table.rows["label"].tolist() == ["disc;line", "disc", ""] and left_out["image"].tolist() == ["3.png"]
    assert notes[-1] == "labels that the model does not know: blob (2); images with no other are left out"


def test_of_class_folders_nothing_is_said_that_is_for_training(tmp_path):
    write_set(tmp_path / "far", ["benign"] * 6)
    for number, name in enumerate(["Benign", "Benign", "malignant", "malignant", "cyst", "cyst"]):
        folder = tmp_path / "hospital" / "test" / name
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "far" / f"{number}.png", folder)
    table, left_out, notes = read_set(str(tmp_path / "hospital"), CLASSES)
    assert table.rows["label"].tolist() == ["benign"] * 2 + ["malignant"] * 2 and len(left_out) == 2
    assert not any(word in note for note in notes for word in ("pipeline", "--", "kept"))
    assert notes[-1] == "the split that came with the set is not used: all of its images are scored"


@pytest.mark.parametrize(("labels", "message"), [
    (["benign", "maligant"], "no class 'maligant' (1 image). Did you mean 'malignant'?"),
    (["0", "1"], "has a class of the model. Its classes: benign, malignant; the labels there: 0 (1), 1 (1)")])
def test_labels_that_may_be_the_models_are_refused(tmp_path, labels, message):
    with pytest.raises(UserError) as error:
        read_set(write_set(tmp_path / "far", labels), CLASSES)
    assert message in str(error.value)


@pytest.fixture
def seen(tmp_path):
    """The split of a run, with the hashes of its pixels."""
    table = inspect_images(read_table(write_phantom(tmp_path / "own", images=30).parent))[0]
    rows = table.rows.assign(part=["train"] * 20 + ["valid"] * 5 + ["test"] * 5, pixels=table.rows["image"].map(
        table.pixels))
    return Split(rows, table.root)


def copy_into(folder, split, changes):
    """Replaces images of a set by changed copies of images of a split, {number in the set: (row, change)}."""
    for number, (row, change) in changes.items():
        change(Image.open(split.image_paths()[row])).save(folder / f"{number}.png")


def crop(image):
    return image.crop((4, 4, image.width - 4, image.height - 4))


def brighten(image):
    return ImageEnhance.Brightness(image.convert("L")).enhance(1.2)


def test_exact_and_near_copies_of_training_and_validation_images_are_left_out_and_counted(tmp_path, seen):
    data = tmp_path / "far"
    write_set(data, ["benign", "malignant"] * 5)
    copy_into(data, seen, {0: (3, Image.Image.copy), 3: (21, Image.Image.copy), 4: (5, crop), 6: (7, brighten),
                           8: (27, Image.Image.copy)})  # the last one is of the test part, which the model never met
    table, copies, notes = leave_out_copies(read_set(str(data), CLASSES)[0], seen.only("train", "valid"))
    assert dict(zip(copies["image"], copies["reason"], strict=True)) == {
        "0.png": "identical", "3.png": "identical", "4.png": "near-duplicate", "6.png": "near-duplicate"}
    assert copies["other"].tolist() == [seen.rows["image"][row] for row in (3, 21, 5, 7)]
    assert "" not in {*copies["center"], *copies["patient"]}  # the flow counts patients
    assert table.rows["image"].tolist() == ["1.png", "2.png", "5.png", "7.png", "8.png", "9.png"]
    assert "left out as copies of training or validation images: 2 identical, 2 near-duplicate" in notes
    assert "4 other images of the same patients as these copies stay" in notes
    assert set(table.pixels) >= set(table.rows["image"])


def test_without_the_runs_images_identical_ones_are_still_found_and_the_rest_is_said(tmp_path, seen):
    data = tmp_path / "far"
    write_set(data, ["benign", "malignant"] * 2)
    copy_into(data, seen, {0: (3, Image.Image.copy), 1: (5, crop)})
    shutil.rmtree(seen.root)
    table, copies, notes = leave_out_copies(read_set(str(data), CLASSES)[0], seen.only("train", "valid"))
    assert copies["image"].tolist() == ["0.png"] and len(table) == 3
    assert notes[0] == "25 of the 25 images that trained the model are not at hand, so near copies of them were not " \
        "looked for"
    without = replace(seen, rows=seen.rows.drop(columns="pixels")).only("train", "valid")
    table, copies, notes = leave_out_copies(read_set(str(data), CLASSES)[0], without)
    assert copies.empty and len(table) == 4 and notes[0].endswith("not looked for, nor exact ones")


def test_duplicates_within_a_set_are_one_group_and_known_patients_are_said(tmp_path, seen):
    data = tmp_path / "far"
    write_set(data, ["benign", "malignant"] * 3)
    shutil.copy(data / "0.png", data / "5.png")
    rows = seen.rows.assign(center="far", patient="p1")
    table, _, notes = leave_out_copies(read_set(str(data), CLASSES)[0], replace(seen, rows=rows))
    groups = table.rows.set_index("image")["group"]
    assert groups["0.png"] == groups["5.png"] == groups["1.png"] and groups.nunique() == 2
    assert notes[-1].startswith("1 patient with the id and center of one that trained the model, such as p1")
    table = read_set(str(data), CLASSES)[0]
    nobody = replace(table, rows=table.rows.assign(patient=""))
    assert leave_out_copies(nobody, seen)[2][0] == (
        "6 of 6 images have no patient id: each counts as a patient of its own, unless it is in a group")
    assert "a bundle does not have them" in leave_out_copies(read_set(str(data), CLASSES)[0], None)[2][0]
