"""The site of docs/ has a place for every page, every flag, key and public name, and needs no network (`make docs`)."""

import dataclasses
import inspect
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from conftest import CHROMIUM

from busfast.cli import VERBS
from busfast.pipelines.config import Config

HOUSE = Path(__file__).parents[1]
MADE = {"reference/cli.md", "reference/pipeline.md", "reference/python.md"}


def pages_in(nav):
    for entry in nav:
        for value in entry.values():
            yield from pages_in(value) if isinstance(value, list) else [value]


def test_every_page_is_in_the_navigation_once():
    named = list(pages_in(yaml.safe_load((HOUSE / "mkdocs.yml").read_text())["nav"]))
    pages = {path.relative_to(HOUSE / "docs").as_posix() for path in (HOUSE / "docs").rglob("*.md")}
    assert sorted(named) == sorted(pages | MADE)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("material", reason="make docs installs what builds the site")
    folder = tmp_path_factory.mktemp("site")
    for words in (["docs.make_reference"], ["mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]):
        done = subprocess.run([sys.executable, "-m", *words], cwd=HOUSE, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_verb_and_flag_is_in_the_reference(site):
    page = (site / "reference" / "cli.html").read_text()
    for verb, function in VERBS.items():
        section = re.search(rf'<h2 id="{verb}">.*?(?=<h2|</article)', page, re.DOTALL)[0]
        for name, one in inspect.signature(function).parameters.items():
            loose = one.default is one.empty and one.kind is not one.KEYWORD_ONLY
            assert f"<code>{name.upper() if loose else '--' + name.replace('_', '-')}</code>" in section


def test_every_key_of_a_pipeline_file_is_in_the_reference(site):
    page = (site / "reference" / "pipeline.html").read_text()
    assert re.findall(r"<dt><code>(\w+)</code>", page) == [field.name for field in dataclasses.fields(Config)]


def test_every_public_name_is_in_the_reference(site):
    page = (site / "reference" / "python.html").read_text()
    for package in ("data", "pipelines", "models", "results"):
        for name in getattr(import_module(f"busfast.{package}"), "__all__", ()):
            assert re.search(rf'id="busfast\.{package}\.[\w.]*\b{name}"', page), name


def test_no_page_asks_another_machine(site):
    for page in (*site.rglob("*.html"), *site.rglob("*.css")):
        text = re.sub(r"<a [^>]*>", "", page.read_text())  # a link that somebody follows is not the page's
        assert re.findall(r"(?:src|href|url\()[=\"'\s]*((?:https?:)?//[^\"'\s>]+)", text) == [], page


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_the_search_works_on_a_site_that_was_opened_as_a_file(site, browser):
    page = browser.new_page()
    page.goto((site / "reference" / "cli.html").as_uri())
    page.locator(".md-search__input").first.click()
    page.keyboard.type("temperature")
    page.locator(".md-search-result__item").first.wait_for(timeout=60_000)
    assert "evaluation" in page.locator(".md-search-result__list").inner_html()
