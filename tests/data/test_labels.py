"""Labels are matched to classes however they are written, and unknown ones name the nearest class."""

import pytest

from busfast.data.labels import find_classes, find_delimiter, match_label, several_writings
from busfast.errors import UserError

CLASSES = ("normal", "Luminal A", "luminal_b")


@pytest.mark.parametrize(("label", "expected"), [("normal", "normal"), ("NORMAL", "normal"), ("luminal-a", "Luminal A"),
                                                 ("LuminalB", "luminal_b"), ("Luminal  A", "Luminal A")])
def test_a_label_is_matched_whatever_its_case_spaces_and_dashes(label, expected):
    assert match_label(label, CLASSES) == expected


def test_of_two_classes_that_differ_only_in_case_a_label_is_the_one_it_is_equal_to():
    assert [match_label(name, ("cyst", "Cyst")) for name in ("cyst", "Cyst")] == ["cyst", "Cyst"]


def test_an_unknown_label_names_the_nearest_class():
    with pytest.raises(UserError, match="Unknown label 'norml'. Did you mean 'normal'?"):
        match_label("norml", CLASSES)


def test_a_label_is_one_class_in_both_forms_of_unicode():
    composed, decomposed = "Gr\u00f6\u00dfe", "Gro\u0308\u00dfe"
    assert match_label(decomposed, (composed, "x")) == composed
    assert find_classes([composed, composed, decomposed]) == {composed: composed, decomposed: composed}


def test_names_that_may_be_one_are_found_and_those_that_differ_are_not():
    assert several_writings(["007", "7", "P12", "p-12", "p 12", "25", "25.0", "Covid 19", "covid19"]) == [
        ["007", "7"], ["25", "25.0"], ["Covid 19", "covid19"], ["P12", "p 12", "p-12"]]
    assert several_writings(["1-2", "12", "-1", "1", "10", "100", "1.2.03", "1.2.3", "0.05", "5", "A1-2", "A12"]) == []


def test_a_separator_within_labels_is_found():
    assert find_delimiter(["a", "b|c;d", "e;f"]) == ("|", [1]) and find_delimiter(["a", "b c", "b"]) == ("", [])
    assert find_delimiter(["car", "person", "car person", "no car"]) == (" ", [2])
    assert find_delimiter(["ER", "HER2", "ER + HER2", "ER+"]) == ("+", [2])
