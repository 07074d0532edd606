"""The site of docs/ (`make docs`) has every page, flag, key and public name, and needs no network. Covers docs/."""

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

ROOT = Path(__file__).parents[1]
GENERATED = {"reference/cli.md", "reference/pipeline.md", "reference/python.md"}


def pages_in(nav):
    for entry in nav:
        for value in entry.values():
            yield from pages_in(value) if isinstance(value, list) else [value]


def test_every_page_is_in_the_navigation_once():
    listed = list(pages_in(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert sorted(listed) == sorted(pages | GENERATED)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("material", reason="make docs installs what builds the site")
    folder = tmp_path_factory.mktemp("site")
    for args in (["docs.make_reference"], ["mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]):
        done = subprocess.run([sys.executable, "-m", *args], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_verb_and_flag_is_in_the_reference(site):
    page = (site / "reference" / "cli.html").read_text()
    for verb, function in VERBS.items():
        section = re.search(rf'<h2 id="{verb}">.*?(?=<h2|</article)', page, re.DOTALL)[0]
        for name, parameter in inspect.signature(function).parameters.items():
            positional = parameter.default is parameter.empty and parameter.kind is not parameter.KEYWORD_ONLY
            assert f"<code>{name.upper() if positional else '--' + name.replace('_', '-')}</code>" in section


def test_every_key_of_a_pipeline_file_is_in_the_reference(site):
    page = (site / "reference" / "pipeline.html").read_text()
    assert re.findall(r"<dt><code>(\w+)</code>", page) == [field.name for field in dataclasses.fields(Config)]


def test_every_public_name_is_in_the_reference(site):
    page = (site / "reference" / "python.html").read_text()
    for package in ("data", "pipelines", "models", "inference", "training", "results"):
        for name in import_module(f"busfast.{package}").__all__:  # once, in the package that defines it
            assert len(re.findall(rf'<h3 id="busfast\.\w+\.[\w.]*\b{name}"', page)) == 1, name


def test_no_page_loads_anything_from_another_machine(site):
    for page in (*site.rglob("*.html"), *site.rglob("*.css")):
        text = re.sub(r"<a [^>]*>", "", page.read_text())  # a link is loaded only when followed
        assert re.findall(r"(?:src|href|url\()[=\"'\s]*((?:https?:)?//[^\"'\s>]+)", text) == [], page


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_the_search_works_on_a_site_that_was_opened_as_a_file(site, browser):
    page = browser.new_page()
    page.goto((site / "reference" / "cli.html").as_uri())
    page.locator(".md-search__input").first.click()
    page.keyboard.type("temperature")
    page.locator(".md-search-result__item").first.wait_for(timeout=60_000)
    assert "evaluation" in page.locator(".md-search-result__list").inner_html()
