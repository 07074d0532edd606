"""Help pages show each flag with its text; a command line and its values are the same, whichever way one goes.

The refusals of busfast/cli/parse.py are in test_cli.py.
"""

import inspect
import re

import pytest

from busfast.cli import VERBS, main, parse


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_the_whole_text_of_each_flag_under_its_name(verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert main([verb, "--help"]) == 0
    page = capsys.readouterr().out
    assert max(map(len, page.splitlines())) <= 100
    texts = re.findall(r"^    (\w+): (.*(?:\n {8,}.*)*)", inspect.cleandoc(VERBS[verb].__doc__), re.MULTILINE)
    texts = {name: " ".join(text.split()) for name, text in texts}
    for name, parameter in inspect.signature(VERBS[verb]).parameters.items():
        shown = re.search(rf"^    (?:--{name}\b|{name.upper()}$).*\n((?: {{8}}.*\n?)*)", page, re.MULTILINE)[1]
        assert " ".join(shown.split()).endswith(texts[name])
        assert parameter.annotation is not bool or "Type:" not in shown  # a switch takes no value
    assert "None" not in page and "Optional" not in page


def test_a_command_is_read_back_as_the_values_that_it_was_made_of():
    values = {"split": "my lists/a b", "lr": "1e-3", "holdout": "01", "resume": True, "then": None, "jobs": "2"}
    line = parse.command("train", values, VERBS["train"])
    assert line == "python -m busfast train '--split=my lists/a b' --holdout=01 --lr=1e-3 --jobs=2 --resume"
    call = parse.parse(VERBS, ["train", "--split=my lists/a b", "--holdout=01", "--lr", "1e-3", "--jobs=2", "--resume"])
    assert call.kwargs == {name: value for name, value in values.items() if value is not None}


@pytest.mark.parametrize(("word", "value"), [("--resume", True), ("--resume=True", True), ("--resume=False", False)])
def test_a_switch_is_on_unless_it_is_said_to_be_off(word, value):
    assert parse.parse(VERBS, ["train", word]).kwargs == {"resume": value}
