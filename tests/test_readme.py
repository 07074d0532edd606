"""The README is a promise: its commands are ones that busfast takes, its files are there, its code is Python."""

import re
import shlex
from pathlib import Path

import pytest

from busfast.cli import VERBS
from busfast.line import check

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("*/README.md")),
         *sorted(ROOT.glob("docs/*.md"))]


def commands():
    for page in PAGES:
        for line in re.findall(r"python -m busfast ([^`\n#]+)", page.read_text()):
            yield pytest.param(shlex.split(line), id=f"{page.parent.name}: {line.strip()}")


@pytest.mark.parametrize("words", commands())
def test_every_command_in_the_documents_is_one_that_busfast_takes(words):
    check(VERBS, [word for word in words if word != "--help"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_every_link_to_a_file_leads_to_one(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_python_in_the_readme_compiles():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        compile(block, "README.md", "exec")
