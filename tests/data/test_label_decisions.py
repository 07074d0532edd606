"""Decisions about labels: which words there are, and that the test part keeps the given labels."""

import hashlib

import pandas as pd
import pytest

from busfast.data.label_decisions import heed_decisions, read_label_decisions
from busfast.data.split import Split
from busfast.errors import UserError

CLASSES = ("normal", "benign", "malignant")


@pytest.fixture
def file(tmp_path):
    return tmp_path / "labels.csv"


@pytest.fixture
def split():
    parts = ["train"] * 6 + ["valid"] * 6 + ["test"] * 6
    return Split(pd.DataFrame({"image": [f"{row}.png" for row in range(18)], "label": [*CLASSES] * 6, "part": parts},
                              dtype=object))


def test_a_decision_is_drop_keep_or_a_class_in_any_capitals_and_empty_cells_are_none(file):
    file.write_text("image,note,decision\na.png,x,Drop\nb.png,x,keep\nc.png,x,MALIGNANT\nd.png,x,\n")
    assert read_label_decisions(file, CLASSES) == {"a.png": "drop", "b.png": "keep", "c.png": "malignant"}
    assert read_label_decisions(file.with_name("none.csv"), CLASSES) == read_label_decisions(None, CLASSES) == {}


@pytest.mark.parametrize(("row", "said"), [
    ("b.png,cancer", "row 3, column decision: 'cancer' is unknown. Write drop, keep, the right label (normal, benign, "
                     "malignant), or nothing."),
    ("a.png,keep", "row 3, column decision: a.png has another decision, 'drop', above. Clear one of them.")])
def test_a_decision_that_is_none_names_file_row_and_value(file, row, said):
    file.write_text(f"image,decision\na.png,drop\n{row}\n")
    with pytest.raises(UserError) as error:
        read_label_decisions(file, CLASSES)
    assert str(error.value) == f"{file}, {said}"


def test_training_and_validation_are_cleaned_and_the_test_part_is_not(file, split):
    file.write_text("as a person saved it")
    decided = {"0.png": "drop", "1.png": "malignant", "2.png": "malignant", "3.png": "keep", "7.png": "normal",
               "8.png": "drop", "12.png": "drop", "13.png": "malignant", "14.png": "keep", "elsewhere.png": "drop"}
    made = heed_decisions(split, file, decided)
    before, after = (one.rows.set_index("image") for one in (split, made))
    assert after["part"][before["part"] != after["part"]].to_dict() == {"0.png": "unused", "8.png": "unused"}
    assert after["label"][before["label"] != after["label"]].to_dict() == {"1.png": "malignant", "7.png": "normal"}
    assert after[12:].equals(before[12:])
    assert made.record()["label_decisions"] == {
        "file": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "dropped": 2, "corrected": 2,
        "kept_in_test": 2}
    assert "2 images of train and valid dropped, 2 labels corrected; 2 decisions not heeded, as the test part" in \
        made.notes[-1]
    assert heed_decisions(split, file, {"elsewhere.png": "drop"}).rows.equals(split.rows)
    assert heed_decisions(split, file, {}) is split and "label_decisions" not in split.record()


def test_decisions_that_leave_no_image_of_a_class_are_refused(file, split):
    with pytest.raises(UserError, match="the valid part has no benign image"):
        heed_decisions(split, file, {"7.png": "drop", "10.png": "malignant"})
