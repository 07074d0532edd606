"""What lies on two sides of a split is found, named by what it is, and refused."""

import pandas as pd
import pytest

from busfast.data.leaks import check_leaks, find_leaks, format_leaks, leave_out_leaks
from busfast.data.split import Split
from busfast.errors import UserError

NONE = pd.DataFrame(columns=["image", "other", "kind"])


def table(*rows):
    """Rows of (image, patient, center, group, part)."""
    return pd.DataFrame(rows, columns=["image", "patient", "center", "group", "part"], dtype=object)


def pairs(*rows):
    return pd.DataFrame(rows, columns=["image", "other", "kind"])


def found(leaks):
    return [tuple(row) for row in leaks.itertuples(index=False)]


CLEAN = table(("a", "1", "x", "", "train"), ("b", "1", "x", "", "train"), ("c", "1", "y", "", "test"),
              ("d", "", "x", "", "valid"), ("e", "", "x", "", "test"), ("f", "2", "x", "", "unused"),
              ("g", "2", "x", "", "test"))


def test_a_clean_split_has_no_leak():
    leaks = find_leaks(CLEAN, pairs(("a", "b", "identical"), ("f", "a", "near-duplicate")))
    assert leaks.empty
    check_leaks(leaks, allow=False)


def test_a_patient_on_two_sides_is_one_leak_with_an_image_of_each():
    parts = table(*[(str(n), "1", "x", "", part) for n, part in enumerate(["test", "train", "train"])])
    leaks = find_leaks(parts, NONE)
    assert found(leaks) == [("patient", "1", "train", "0", "test")]


def test_the_same_file_on_two_sides_is_found():
    assert found(find_leaks(table(("a", "", "", "", "train"), ("a", "", "", "", "valid")), NONE)) == [
        ("same file", "a", "train", "a", "valid")]


@pytest.mark.parametrize("kind", ["identical", "near-duplicate"])
def test_duplicates_on_two_sides_are_found_pair_by_pair(kind):
    parts = table(("a", "", "", "", "train"), ("b", "", "", "", "test"), ("c", "", "", "", "valid"))
    assert found(find_leaks(parts, pairs(("a", "b", kind), ("b", "c", kind)))) == [
        (kind, "a", "train", "b", "test"), (kind, "b", "test", "c", "valid")]


def test_a_chain_of_duplicates_is_a_leak_though_its_middle_is_unused():
    parts = table(("a", "", "", "", "train"), ("b", "", "", "", "unused"), ("c", "", "", "", "test"))
    chain = pairs(("a", "b", "identical"), ("b", "c", "identical"))
    assert found(find_leaks(parts, chain)) == [("near-duplicate", "a", "train", "c", "test")]


def test_every_group_on_two_sides_is_a_leak_whatever_else_is_wrong_with_it():
    parts = table(("a", "", "", "g", "train"), ("b", "", "", "g", "test"), ("c", "", "", "h", "train"),
                  ("d", "", "", "h", "test"), ("e", "", "", "i", "test"), ("f", "", "", "i", "test"))
    assert found(find_leaks(parts, pairs(("c", "d", "identical")))) == [
        ("identical", "c", "train", "d", "test"), ("group", "a", "train", "b", "test"),
        ("group", "c", "train", "d", "test")]


def test_leaks_are_refused_with_counts_and_names_and_allowed_with_a_warning(capsys):
    parts = table(*[(f"{n}{part}", str(n), "x", "", part) for n in range(12) for part in ("train", "test")])
    leaks = find_leaks(parts, NONE)
    assert format_leaks(leaks) == "12 patients"
    with pytest.raises(UserError) as caught:
        check_leaks(leaks, allow=False)
    for words in ("12 patients", "patient: 0train (train), 0test (test)", "and 2 more", "--allow-leaks"):
        assert words in str(caught.value)
    check_leaks(leaks, allow=True)
    assert "12 patients" in capsys.readouterr().out


def test_of_a_split_that_came_with_the_images_the_earlier_part_gives_way_and_may_not_end_without_a_class():
    rows = table(("a", "1", "x", "", "train"), ("b", "1", "x", "", "test"), ("c", "", "x", "g", "valid"),
                 ("d", "", "x", "g", "test"), ("e", "1", "y", "", "train"), ("f", "2", "x", "", "valid"),
                 ("h", "2", "x", "", "unused"))
    rows["label"] = list("uuuuvuu")
    split = leave_out_leaks(Split(rows), "")
    assert split.rows["part"].tolist() == ["unused", "test", "unused", "test", "train", "valid", "unused"]
    assert "2 images left out (1 of train, 1 of valid)" in split.notes[0]
    assert leave_out_leaks(split, "u") is split and find_leaks(split, NONE).empty
    with pytest.raises(UserError, match="Without them, train has no u. Use --split=stratified"):
        leave_out_leaks(Split(rows), "u")
