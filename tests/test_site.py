"""The site of docs/ (`make docs`) has every page, flag, key and public name, and needs no network; its pictures are
those that `make screenshots` takes. Covers docs/.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # where docs/ is

import dataclasses
import inspect
import os
import re
import subprocess
from importlib import import_module

import pytest
import yaml
from conftest import CHROMIUM

from busfast.cli import VERBS
from busfast.pipelines.config import Config
from docs import make_screenshots

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


def test_the_gallery_shows_each_picture_and_the_command_that_it_is_of():
    page = (ROOT / "docs" / "gallery.md").read_text()
    pictures = list((ROOT / "docs" / "gallery").iterdir())
    assert {path.name for path in pictures} == set(re.findall(r"\]\(gallery/([^)]+)\)", page))
    assert [words for words in make_screenshots.COMMANDS if f"    python -m busfast {words}\n" not in page] == []
    assert max(path.stat().st_size for path in pictures) < 200_000  # light enough for a README
    assert sum(path.stat().st_size for path in pictures) < 700_000


def test_without_a_browser_screenshots_say_what_to_install():
    done = subprocess.run([sys.executable, "-m", "docs.make_screenshots"], cwd=ROOT, env=os.environ | {"PATH": ""},
                          capture_output=True, text=True)
    assert done.returncode == 1 and "apt install chromium" in done.stderr


def test_the_picture_of_a_terminal_has_what_is_left_on_it():
    said = "loading\r       \ra < b\r\n\rbar: 1\rbar: 2\r      \r\x1b[1mbest\x1b[0m\x1b[K\r\n"
    assert make_screenshots.as_html(said) == "a &lt; b\n<b>best</b>"


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


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_screen_readers_and_keyboards_can_use_the_site(site, browser, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = browser.new_page(viewport={"width": 1400, "height": 900}, color_scheme=scheme)
    for name, width in (("gallery", 1400), ("data", 1400), ("data", 400)):
        page.set_viewport_size({"width": width, "height": 900})
        page.goto((site / f"{name}.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        found = axe.Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
