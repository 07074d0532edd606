"""Text for people: counts, text that is safe to print, Markdown tables."""

import pytest

from busfast.text import composed, counted, file_size, is_class_name, listed, markdown_table, plain_text, signed, times


@pytest.mark.parametrize(("number", "noun", "text"), [
    (1, "pair", "1 pair"), (2, "pair", "2 pairs"), (0, "pair", "0 pairs"), (1, "pair of images", "1 pair of images"),
    (2, "pair of images", "2 pairs of images")])
def test_a_count_has_its_noun_in_the_right_number(number, noun, text):
    assert counted(number, noun) == text


@pytest.mark.parametrize(("value", "text"), [(-0.0004, "+0.000"), (-0.0006, "-0.001"), (0.25, "+0.250")])
def test_a_difference_has_its_sign_unless_it_is_zero(value, text):
    assert signed(value) == text


def test_how_often_is_said_in_words():
    assert [times(number) for number in (1, 2, 3)] == ["once", "twice", "3 times"]


@pytest.mark.parametrize(("count", "text"), [(1, "1 kB"), (6207, "6 kB"), (16_246_716, "16.2 MB")])
def test_the_size_of_a_file_is_short(count, text):
    assert file_size(count) == text


def test_a_long_list_is_shortened():
    assert listed(["a", "b"]) == "a, b"
    assert listed([str(number) for number in range(1500)]) == "0, 1, 2, ..., 1499 (1,500)"


def test_commands_to_the_terminal_are_escaped_and_letters_and_lines_stay():
    assert plain_text("größe\n\x1b[2Jx\r\x07") == "größe\n\\x1b[2Jx\\r\\x07"


def test_a_cell_of_a_markdown_table_does_not_end_it():
    assert markdown_table(["a", "b"], [[1, "x|y"]]) == "| a | b |\n| --- | --- |\n| 1 | x\\|y |"


def test_names_that_look_the_same_are_the_same():
    assert composed(" Gro\u0308\u00dfe\u00a0 1\n") == "Gr\u00f6\u00dfe 1"


@pytest.mark.parametrize(("name", "fits"), [
    ("1. Basal Cell (BCC)", True), ("HER2+: 50%", True), ("\u0938\u093e\u092e\u093e", True),
    ("\u0646\u0631\u0645\u200c\u0627", True),
    ("Gro\u0308\u00dfe", True), ("a/b", False), ("=a", False), ("<b>", False), ("a\nb", False), ("a|b", False),
    ("a,b", False),
    ("", False), ("\u0308", False), ("..", False)])
def test_the_name_of_a_class_begins_with_a_letter_or_digit_of_any_script_and_has_few_signs(name, fits):
    assert is_class_name(name) == fits
