"""The report in a real browser, where one is installed: it loads, fits, and screen readers can read it."""

import pytest

from busfast.cli import main
from busfast.training.runs import Run


def test_the_report_is_whole_at_any_width_and_accessible(workdir, browser):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    assert main(["train", "--split=center_holdout", "--epochs=1", "--then=evaluate,report"]) == 0
    page = browser.new_page()
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    for width in (400, 1400):
        page.set_viewport_size({"width": width, "height": 900})
        page.goto((Run("phantom/center_holdout").results / "report.html").absolute().as_uri())
        assert page.evaluate("[...document.images].every(one => one.complete && one.naturalWidth > 300)")
        assert page.evaluate("document.documentElement.scrollWidth") <= width  # tables scroll by themselves
        assert page.locator("h1").count() == 1 and page.locator("#limits").is_visible()
        found = axe.Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
    assert said == [] and all(url.startswith(("file:", "data:")) for url in asked)
