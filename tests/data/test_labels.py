"""Labels are matched to classes however they are written, and unknown ones name the nearest class."""

import pytest

from busfast.data.labels import match_label
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
