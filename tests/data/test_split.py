"""What a split promises: nobody on two sides, shares as said, every class everywhere, and the same again by seed.

Covers busfast/data/__init__.py, busfast/data/split.py, busfast/data/split_file.py and busfast/data/groups.py.
"""

import numpy as np
import pandas as pd
import pytest

from busfast.data.duplicate_pairs import NO_DUPLICATES
from busfast.data.split import PARTS, SPLITS, count_parts, split_folds, split_table
from busfast.data.table import CLASSES, read_table
from busfast.errors import UserError
from data.tables import CENTERS, images, joined, make_table, random_table, tiny_table

DRAWN = [name for name in SPLITS if name != "given"]


def shares(parts):
    return parts.value_counts(normalize=True).reindex(PARTS, fill_value=0).to_list()


def refusal(table, split, **options):
    with pytest.raises(UserError) as caught:
        split_table(table, split, **options)
    return str(caught.value)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("split", DRAWN)
def test_no_patient_is_on_two_sides(split, seed):
    for table in split_folds(random_table(seed), split, seed=seed).values():
        assert (table.rows.groupby("patient")["part"].nunique() == 1).all()


def test_a_patient_who_may_be_there_in_two_writings_is_said():
    table = random_table(0)
    assert not any("written" in note for note in split_table(table).notes)
    table.loc[table.index[table["patient"] == "7"][0], "patient"] = "007"
    assert ("1 patient may be written in several ways, and are read as different ones (007 and 7): audit lists them"
            in split_table(table).notes)


@pytest.mark.parametrize("seed", range(5))
def test_no_id_is_on_two_sides_of_stratified_even_if_centers_share_ids(seed):
    table = split_table(random_table(seed, ids_by_center=True), seed=seed)
    assert (table.rows.groupby("patient")["part"].nunique() == 1).all()


@pytest.mark.parametrize("seed", range(5))
def test_center_holdout_trains_and_validates_on_different_ids_even_if_centers_share_ids(seed):
    table = split_table(random_table(seed, ids_by_center=True), "center_holdout", seed=seed)
    rest = table.only("train", "valid").rows
    assert (rest.groupby("patient")["part"].nunique() == 1).all()


@pytest.mark.parametrize("split", DRAWN)
def test_every_image_gets_exactly_one_part_and_the_rest_of_the_table_stays(split):
    before = random_table(0)
    kept = before.copy()
    for after in split_folds(before, split).values():
        assert set(after.rows["part"]) == set(PARTS)
        pd.testing.assert_frame_equal(after.rows.drop(columns="part"), kept)
    pd.testing.assert_frame_equal(before, kept)


@pytest.mark.parametrize("seed", range(5))
def test_stratified_is_70_15_15_of_the_whole_of_each_class_and_of_each_center(seed):
    table = split_table(random_table(seed), seed=seed).rows
    assert shares(table["part"]) == pytest.approx([0.70, 0.15, 0.15], abs=0.02)
    for column in ("label", "center"):
        for value, parts in table.groupby(column)["part"]:
            assert shares(parts) == pytest.approx([0.70, 0.15, 0.15], abs=0.05), value


@pytest.mark.parametrize("seed", range(5))
def test_center_holdout_is_85_15_of_the_other_centers_and_of_each_class(seed):
    table = split_table(random_table(seed), "center_holdout", seed=seed, holdout=("beta",)).rows
    rest = table[table["center"] != "beta"]
    assert shares(rest["part"]) == pytest.approx([0.85, 0.15, 0], abs=0.02)
    for value, parts in rest.groupby("label")["part"]:
        assert shares(parts) == pytest.approx([0.85, 0.15, 0], abs=0.05), value


def parts_of(split, seed):
    return [fold.rows["part"].to_list() for fold in split_folds(random_table(1), split, seed=seed).values()]


@pytest.mark.parametrize("split", DRAWN)
def test_the_seed_alone_decides(split):
    first = parts_of(split, seed=3)
    np.random.seed(len(split))
    assert first == parts_of(split, seed=3)
    assert first != parts_of(split, seed=4)


@pytest.mark.parametrize("holdout", [("alpha",), ("gamma",), ("alpha", "beta")])
def test_the_test_part_is_exactly_the_held_out_centers(holdout):
    table = split_table(random_table(2), "center_holdout", holdout=holdout)
    assert images(table, "test") == set(table.rows["image"][table.rows["center"].isin(holdout)])
    assert table.holdout == holdout


def test_without_a_choice_the_smallest_center_with_every_class_is_held_out_and_said():
    table = split_table(joined(tiny_table(9, 9, 9), tiny_table(5, 5, 5, center="beta"),
                               tiny_table(4, 4, 0, center="gamma")), "center_holdout")
    assert table.holdout == ("beta",)
    assert set(table.only("test").rows["center"]) == {"beta"}
    assert any("held out: beta" in note and "--holdout" in note for note in table.notes)


def test_a_chosen_center_need_not_have_every_class_and_the_lack_is_said():
    table = split_table(joined(tiny_table(9, 9, 9), tiny_table(4, 4, 0, center="gamma")), "center_holdout",
                        holdout=("gamma",))
    assert "held out: gamma" in table.notes
    assert any("no malignant image" in note for note in table.notes)


def test_an_unknown_center_is_refused_with_the_nearest():
    message = refusal(random_table(0), "center_holdout", holdout=("alhpa",))
    assert "'alhpa'" in message
    assert "Did you mean 'alpha'" in message


def test_holding_out_every_center_is_refused():
    assert "alpha,beta,gamma leaves no center" in refusal(random_table(0), "center_holdout", holdout=tuple(CENTERS))


def test_center_holdout_without_centers_is_refused():
    table = random_table(0).assign(center="")
    assert "the DataFrame has no column 'center', or an empty one. Fill it" in refusal(table, "center_holdout")


def test_an_image_without_a_center_is_named_by_row():
    table = random_table(0)
    table.loc[7, "center"] = ""
    message = refusal(table, "center_holdout")
    assert "row 9" in message
    assert "images/7.png" in message


def test_center_holdout_with_one_center_is_refused_by_name():
    assert "only 'alpha'" in refusal(tiny_table(9, 9, 9), "center_holdout")


def test_when_no_center_has_every_class_one_must_be_named():
    table = joined(tiny_table(5, 5, 0), tiny_table(5, 0, 6, center="beta"))
    message = refusal(table, "center_holdout")
    assert "--holdout=" in message
    assert "alpha, beta" in message


def test_holdout_is_refused_where_it_means_nothing():
    message = refusal(random_table(0), "stratified", holdout=("alpha",))
    assert "holdout=alpha" in message
    assert "stratified" in message


def test_an_unknown_split_is_refused_with_the_nearest():
    assert "Did you mean 'center_holdout'" in refusal(random_table(0), "centre_holdout")


@pytest.mark.parametrize(("counts", "label"), [((2, 9, 9), "normal"), ((9, 9, 0), "malignant"), ((0, 9, 0), "normal")])
def test_too_few_patients_of_a_class_are_refused_by_class_and_number(counts, label):
    message = refusal(tiny_table(*counts), "stratified", classes=CLASSES)
    assert f"Class '{label}' has {counts[CLASSES.index(label)]} patients" in message


def test_many_images_of_too_few_patients_are_refused():
    rows = [("malignant", "alpha", str(number % 2)) for number in range(50)]
    table = joined(tiny_table(9, 9, 0), make_table(rows))
    assert "Class 'malignant' has 2 patients" in refusal(table, "stratified")


def test_too_few_patients_outside_the_held_out_center_are_refused_with_the_centers_left():
    table = joined(tiny_table(9, 9, 1), tiny_table(5, 5, 5, center="beta"))
    message = refusal(table, "center_holdout", holdout=("beta",))
    assert "Class 'malignant' has 1 patients in the centers alpha" in message


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("counts", [(3, 3, 3), (3, 40, 3), (3, 4, 5), (40, 3, 40)])
def test_every_part_has_every_class_even_in_a_tiny_table(counts, seed):
    table = split_table(tiny_table(*counts), seed=seed)
    assert (count_parts(table) > 0).all(axis=None)


def test_every_part_has_every_class_even_if_few_patients_have_several():
    labels = {"0": "N", "1": "N", "2": "BN", "3": "B", "4": "M", "5": "MB", "6": "M"}
    names = {"N": "normal", "B": "benign", "M": "malignant"}
    table = make_table([(names[letter], "alpha", patient) for patient, own in labels.items() for letter in own])
    assert (count_parts(split_table(table)) > 0).all(axis=None)


@pytest.mark.parametrize("seed", range(10))
def test_train_and_valid_have_every_class_even_if_a_tiny_center_is_left(seed):
    table = joined(tiny_table(2, 20, 2), tiny_table(5, 5, 5, center="beta"))
    table = split_table(table, "center_holdout", seed=seed, holdout=("beta",))
    assert (count_parts(table).loc[["train", "valid"]] > 0).all(axis=None)


def test_images_without_a_patient_are_each_their_own_patient_and_this_is_said():
    table = random_table(0)
    table.loc[:59, "patient"] = ""
    table = split_table(table)
    assert set(table.rows["part"][:60]) == set(PARTS)
    assert any(f"60 of {len(table)} images have no patient id" in note for note in table.notes)


def test_unknown_patients_are_not_taken_for_one_who_is_on_both_sides():
    table = split_table(random_table(0).assign(patient=""), "center_holdout", holdout=("gamma",))
    assert [note for note in table.notes if "patient ids occur" in note] == []


def test_where_every_patient_is_known_only_the_shares_are_said():
    table = split_table(tiny_table(20, 40, 60), duplicates=NO_DUPLICATES)
    assert table.notes == ("each class is split 70/15/15%",)
    note, = split_table(tiny_table(19, 40, 60), duplicates=NO_DUPLICATES).notes
    assert note.startswith("shares of each class are within ") and " points of 70/15/15% (farthest: " in note


def test_copies_stay_on_one_side_and_where_they_are_not_known_it_is_said():
    table = tiny_table(40, 40, 40)
    a, b = np.arange(0, 120, 2), np.arange(1, 120, 2)
    split = split_table(table, duplicates=pd.DataFrame({"a": a, "b": b}))
    assert split.rows["part"].to_numpy()[a].tolist() == split.rows["part"].to_numpy()[b].tolist()
    assert "images were not checked for duplicates" in split_table(table).notes
    assert "images were not checked for duplicates" not in split.notes


def test_ids_on_both_sides_of_center_holdout_are_said():
    table = split_table(random_table(0, ids_by_center=True), "center_holdout", holdout=("gamma",))
    held = set(table.only("test").rows["patient"])
    assert any(f"{len(held)} patient ids occur in held-out and in training" in note for note in table.notes)


def test_a_column_of_the_users_own_is_not_written_over():
    with pytest.raises(UserError, match="already has a column 'part'"):
        split_table(tiny_table(4, 4, 4).assign(part="left breast"))


def test_parts_are_counted_by_class_in_the_order_of_the_model():
    table = tiny_table(2, 1, 0).assign(part=["train", "test", "train"])
    counts = count_parts(table, CLASSES)
    assert list(counts.index) == list(PARTS)
    assert list(count_parts(table).columns) == ["normal", "benign"]
    assert list(counts.columns) == list(CLASSES)
    assert counts.to_numpy().tolist() == [[1, 1, 0], [0, 0, 0], [1, 0, 0]]


def test_an_image_without_any_of_several_labels_counts_for_none():
    rows = pd.DataFrame({"image": list("abcd"), "label": ["x|y", "", "x", ""], "part": "train"})
    assert count_parts(rows, ("x", "y"), "|").loc["train"].to_list() == [2, 1]


def test_a_table_of_images_and_labels_alone_is_split(tmp_path):
    lines = [f"{number}.png,{label}" for number, label in enumerate(CLASSES * 10)]
    (tmp_path / "table.csv").write_text("image,label\n" + "\n".join(lines) + "\n")
    for number in range(30):
        (tmp_path / f"{number}.png").touch()
    parts = split_table(read_table(tmp_path), "stratified").rows
    assert shares(parts["part"]) == pytest.approx([0.70, 0.15, 0.15], abs=0.06)
    assert set(parts["label"][parts["part"] == "test"]) == set(CLASSES)


def test_a_center_with_a_comma_in_its_name_is_told_where_to_go():
    table = joined(tiny_table(4, 4, 4, center="Hospital, North"), tiny_table(4, 4, 4, center="beta"))
    assert "A name with a comma goes into the pipeline file" in refusal(table, "center_holdout", holdout=("Hospital",))
    assert split_table(table, "center_holdout", holdout=("Hospital, North",)).holdout == ("Hospital, North",)


def given_table(parts):
    table = random_table(0)
    patients = table["patient"].rank(method="dense").astype(int)
    return table.assign(original_split=[parts[number % len(parts)] for number in patients])


def test_the_split_that_came_with_the_images_is_taken_as_it_is():
    table = given_table(["train", "train", "valid", "test", ""])
    parts = split_table(table, "given").rows
    assert (parts["part"] == table["original_split"].replace("", "unused")).all()


@pytest.mark.parametrize(("there", "missing"), [(["train", "test"], "valid"), (["train", "train", "valid"], "test")])
def test_a_part_that_did_not_come_is_drawn_from_train_a_patients_images_together(there, missing):
    table = given_table(there)
    split = split_table(table, "given")
    rows = split.rows
    kept = rows["part"] == table["original_split"]
    assert (rows["part"][~kept] == missing).all() and shares(rows["part"])[PARTS.index(missing)] > 0.05
    drawn = rows[table["original_split"] == "train"]
    assert (drawn.groupby("patient")["part"].nunique() == 1).all()
    assert f"no part {missing}: 15% of train is taken for it" in "; ".join(split.notes)


@pytest.mark.parametrize(("parts", "message"), [
    (None, "came without a split"), (["train"], "has only train"), (["valid", "test"], "has only test, valid"),
    (["train", "valid", "test"], "has no benign in part valid"),
])
def test_a_split_that_cannot_be_taken_is_refused(parts, message):
    table = given_table(parts) if parts else random_table(0)
    if "benign" in message:
        table = table[(table["label"] != "benign") | (table["original_split"] != "valid")].reset_index(drop=True)
    assert message in refusal(table, "given")
