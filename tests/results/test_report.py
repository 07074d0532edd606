"""The report needs no model, no images and no network, shows what is undefined, and is accessible in a real browser.

Covers busfast/results/report.py and busfast/results/limits.py.
"""

import base64
import io
import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from busfast.cli import main
from busfast.csvfile import write_csv
from busfast.results.evaluation import summarize
from busfast.results.plots import draw_all, draw_centers, draw_decision, draw_operating, draw_pr, draw_roc, make_sheet
from busfast.results.report import _kind, gather, write_pages
from busfast.training.runs import Run

NAME = "phantom/center_holdout"
CLASSES = ("normal", "benign", "malignant")


def run(*words, code=0):
    assert main(list(words)) == code


@pytest.mark.parametrize(("column", "value", "message"), [
    ("p_benign", "high", "column p_benign: 'high' is not a finite number"),
    ("label", "odd", "column label: 'odd' is not one of"), ("part", "train", "column part: 'train' is not one of"),
])
def test_predictions_that_were_meddled_with_are_refused_by_row_and_column(evaluated, column, value, message, capsys):
    path = Run(NAME).results / "predictions.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table.loc[2, column] = value
    write_csv(table, path)
    run("report", f"--run={NAME}", code=2)
    error = capsys.readouterr().err
    assert message in error and "row 4" in error


def test_the_report_needs_no_model_no_images_and_no_network(evaluated, capsys):
    shutil.rmtree("models")
    shutil.rmtree("data/phantom/images")
    run("report", f"--run={NAME}")
    assert f"run this, then report again:\n  python -m busfast explain --run={NAME}\n" in capsys.readouterr().out
    page = (Run(NAME).results / "report.html").read_text()
    assert not re.search(r"<script|https?://(?!arxiv)|src=\"(?!data:image/(?:png|jpeg);base64,)", page)
    assert page.count('src="data:image/png') == 9 and all(re.findall(r'<img [^>]*alt="([^"]+)"', page))
    shown = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="([^".:,]+)', page)
    for name, title in {"confusion": "Confusion matrices", "roc": "ROC of each class", "pr": "Precision and recall",
                        "reliability": "Reliability", "decision_curve": "Decision curve for malignant",
                        "operating_points": "Sensitivity and specificity for malignant"}.items():
        data = base64.b64encode((Run(NAME).results / f"{name}.png").read_bytes()).decode()
        assert [alt.startswith(title) for content, alt in shown if content == data] == [True], name
    for words in ("PHANTOM", "not a medical device", "Limits", "All test images come from one center (gamma)",
                  "macro AUC", "python -m busfast evaluate --run=phantom/center_holdout", "has been scored once",
                  "DeLong, by patients", "Decision curve for malignant", "hold at its own prevalence only",
                  "To know the sensitivity for malignant within 0.05 (95%), about ",
                  '<th scope="row">data (SHA-256)</th>', '<th scope="row">1%</th>', '<th scope="row">20%</th>'):
        assert words in page
    assert "The images cannot be shown: " in page and "data:image/jpeg" not in page
    assert "left_out.csv" not in page  # there is none
    with Image.open(Run(NAME).results / "results.png") as sheet:
        assert sheet.size == (3000, 1400)
    card = (Run(NAME).results / "model_card.md").read_text()
    headings = ["Model details", "Intended use", "Factors", "Metrics", "Evaluation data", "Training data",
                "Quantitative analyses", "Ethical considerations", "Caveats and recommendations"]
    assert re.findall(r"^## (.+)$", card, flags=re.MULTILINE) == headings


def test_the_sheet_has_each_picture_whole_in_its_place(tmp_path):
    files = [tmp_path / f"{number}.png" for number in range(6)]
    for number, file in enumerate(files):  # of several shapes
        Image.new("RGB", (100 + 50 * number, 80), (40 * number, 0, 0)).save(file)
    make_sheet(files, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        centers = [sheet.getpixel((500 + 1000 * (place % 3), 350 + 700 * (place // 3))) for place in range(6)]
        assert centers == [(40 * number, 0, 0) for number in range(6)] and sheet.getpixel((1000, 350)) == (255,) * 3


def test_a_report_that_somebody_else_wrote_stays(evaluated, capsys):
    page = Run(NAME).results / "report.html"
    page.write_text("my own words")
    run("report", f"--run={NAME}", code=2)
    assert "was not written by busfast" in capsys.readouterr().err and page.read_text() == "my own words"


def test_a_run_that_was_not_evaluated_says_what_to_do(place, capsys):
    run("report", f"--run={NAME}", code=2)
    assert f"python -m busfast evaluate --run={NAME}" in capsys.readouterr().err


def test_predictive_values_are_for_the_prevalences_that_evaluate_was_asked_for(evaluated, capsys):
    for wrong in ("0", "1.5", "5%"):
        run("evaluate", f"--run={NAME}", f"--prevalence={wrong}", code=2)
        assert f"prevalence={wrong} is no list of shares" in capsys.readouterr().err
    run("evaluate", f"--run={NAME}", "--prevalence=.003")
    assert "where 0.3% are malignant: PPV 0." in capsys.readouterr().out
    rows = gather(summarize(Run(NAME), reuse=True), {})["predictive_values"]["rows"]  # as report does
    assert [row[:2] for row in rows] == [["0.3%", "0.9"]]


@pytest.mark.parametrize("missing", [["malignant"], ["normal", "benign"]])
def test_a_test_part_without_a_class_is_reported_all_the_same(evaluated, missing):
    path = Run(NAME).results / "predictions.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    write_csv(table[(table["part"] == "valid") | ~table["label"].isin(missing)], path)
    run("report", f"--run={NAME}")
    found = summarize(Run(NAME))
    assert np.isnan(found.pick("macro_auc")["estimate"]) and not np.isnan(found.pick("accuracy")["estimate"])
    page = (Run(NAME).results / "report.html").read_text()
    assert "not defined" in page and not re.search(r"\bnan\b", re.sub(r"base64,[^\"]+", "", page))
    if "malignant" in missing:
        assert "The test part holds no malignant image: what matters most was not tested." in page


def texts_of(axes):
    return [text.get_text() for text in axes.texts]


def test_a_picture_that_is_not_defined_says_why(evaluated):
    found = summarize(Run(NAME))
    table = found.predictions
    found = replace(found, predictions=table[(table["part"] == "valid") | (table["label"] == "benign")])
    for draw, reason in ((draw_roc, "test part are of one class"), (draw_pr, "test part are of one class"),
                         (draw_decision, "needs images of malignant"), (draw_operating, "needs images of malignant")):
        assert any("not defined: " in text and reason in text.replace("\n", " ")
                   for text in texts_of(draw(found)[0].axes[0])), draw


def test_without_centers_there_is_no_picture_of_them_and_nothing_is_said_about_centers(evaluated):
    found = summarize(Run(NAME))
    table = found.predictions.assign(center="")
    found = replace(found, predictions=table, record=found.record | {"holdout": []})
    facts = gather(found, {})
    assert "of centers that are not recorded" in facts["summary"][0]
    assert any("center of the test images is not recorded" in text for text in facts["limits"])
    assert "centers.png" not in draw_all(found, Run(NAME).results)
    table = table.assign(center=["a", "b"] * (len(table) // 2) + ["a"] * (len(table) % 2))
    several = replace(found, predictions=table)
    assert "centers.png" in draw_all(several, Run(NAME).results)
    low, high = draw_centers(several)[0].axes[0].get_xlim()
    assert low < 0 and high > 1.01  # markers at 0 and 1 are whole


def test_without_temperature_and_thresholds_nothing_is_said_to_be_calibrated_or_chosen(evaluated):
    bare = replace(summarize(Run(NAME)), temperature=None, chosen={})
    for draw in (draw_operating, draw_decision):
        figure, text = draw(bare)
        assert figure.axes[0].get_xlabel().startswith("probability of malignant") and not re.search(r"\.\s*\.", text)
        assert "chosen" not in figure.axes[0].get_title()
    axes = draw_operating(summarize(Run(NAME)))[0].axes[0]
    assert axes.get_xlabel().startswith("calibrated probability") and "thresholds chosen" in axes.get_title()
    page = write_pages(bare, "report.html")[0].read_text()
    assert "There is no threshold." in page and "Thresholds are chosen" not in page


def test_one_positive_patient_is_said_to_be_too_few(evaluated):
    path = Run(NAME).results / "predictions.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    ill = (table["part"] == "test") & (table["label"] == "malignant")
    only = table["group"][ill].value_counts().index[0]
    write_csv(table[~ill | (table["group"] == only)], path)
    found = summarize(Run(NAME))
    facts = gather(found, {})
    few, needed = facts["limits"][len(found.failures):][:2]
    assert "1 group (patients, or duplicates): too few patients for an interval of their sensitivity" in few
    assert re.search(r"about \d+ patients .* are needed; there are 1\.", needed)
    assert {"0.9"} == {row[1] for row in facts["predictive_values"]["rows"]}
    assert all("too few patients" in cell or cell == "not defined" for row in facts["predictive_values"]["rows"]
               for cell in row[2:])
    assert "too few patients" in facts["delong"]["rows"][CLASSES.index("malignant")][2]
    assert draw_decision(found)[1].endswith("; at 0 of them its whole band is, too.")
    assert found.decision_curve["low"].isna().all()


def test_decisions_about_labels_that_training_heeded_are_said(evaluated):
    found = summarize(Run(NAME))
    heeded = {"label_decisions": {"file": "labels.csv", "corrected": 3, "dropped": 1}}
    facts = gather(replace(found, record=found.record | heeded), {})
    assert "3 corrected, 1 image dropped" in str(facts["data"]) and "1 by labels.csv" in facts["unused"]
    assert "labels.csv" not in str(gather(found, {})["data"])


def test_a_center_may_be_called_anything(evaluated):
    path = Run(NAME).results / "predictions.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    rows = table.index[table["part"] == "test"][::2]
    table.loc[rows, "center"] = "<script>alert(1)</script>|x $a_ $"
    write_csv(table, path)
    run("report", f"--run={NAME}")
    assert "<script" not in (Run(NAME).results / "report.html").read_text()
    card = (Run(NAME).results / "model_card.md").read_text()
    assert "<script" not in card and "\\|x" in card


def test_columns_of_words_are_aligned_left_and_of_numbers_right(evaluated):
    facts = gather(summarize(Run(NAME)), {})
    assert facts["points"]["kinds"] == ["n", "n", "", "n", "n", "n", "n"]  # target, threshold, part, rates
    assert _kind(["Better than chance.", "Covering the lesion costs 0.218 (0.089 to 0.331): it uses it."]) == "long"
    assert _kind(["0.5 (0.4 to 0.6), 3 of 6", "not defined", "", "94%, 91 of 97", "640 (293)", "+0.1"]) == "n"
    assert _kind(["2.14.1", "3f9a" * 16]) == "long" and _kind(["0.1.0", "2.4.0+cpu"]) == ""


def test_the_report_of_an_ensemble_lists_its_members_and_the_commands_that_made_them(evaluated):
    found = summarize(Run(NAME))
    facts = gather(replace(found, record=found.record | {"members": [NAME, "phantom/gone"]}), {})
    assert facts["summary"][0].startswith("The model, the mean of 2 runs of ")
    assert facts["members"]["rows"] == [[NAME, "42", "gamma", "1"], ["phantom/gone (no longer here)", "", "", ""]]
    assert facts["members"]["columns"] == ["run", "seed", "held out", "best epoch"]
    assert "the mean of the probabilities of 2 runs" in str(facts["data"]) and "; seed" not in facts["data"][0]
    commands = facts["commands"].splitlines()
    assert commands[0].startswith("python -m busfast train --pipeline=results/phantom/center_holdout/config.yaml")
    assert commands[1].startswith("# phantom/gone is not here")
    several = replace(found, record=found.record | {"members": [NAME, NAME]})
    for path in write_pages(several, "report.html", "model_card.md"):
        assert "ean of 2 runs of" in (text := path.read_text()) and "Members of the ensemble" in text
    assert gather(found, {})["members"] is None
    bundle = replace(several, config=replace(found.config, data=""))
    assert gather(bundle, {})["members"]["rows"] == [[NAME], [NAME]]  # of its maker, not those here


def edge(region, left):
    """The mean brightness of the right edge of a region that is scrolled by `left` pixels."""
    region.evaluate("(one, left) => { one.scrollLeft = left }", left)
    with Image.open(io.BytesIO(region.screenshot())) as picture:
        return np.asarray(picture.convert("L"))[:20, -4:].mean()  # above the table: its caption


def test_the_report_is_whole_at_any_width_and_accessible(evaluated, browser):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    run("report", f"--run={NAME}")
    page = browser.new_page()
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    for width in (400, 1400):
        page.set_viewport_size({"width": width, "height": 900})
        page.goto((Run(NAME).results / "report.html").absolute().as_uri())
        assert page.evaluate("[...document.images].every(one => one.complete && one.naturalWidth > 0)")
        assert page.evaluate("document.documentElement.scrollWidth") <= width  # tables scroll by themselves
        cut = page.evaluate("[...document.querySelectorAll('.scroll')].filter(one => one.scrollWidth > one.clientWidth)"
                            ".map(one => one.ariaLabel)")
        assert cut == [] if width == 1400 else "The main scores, with 95% intervals" not in cut
        if width == 400:
            region = page.locator(f'.scroll[aria-label="{cut[0]}"]')
            assert edge(region, 0) < edge(region, 10_000) - 20  # a shadow says that there is more
        first = page.locator("img").first.bounding_box()
        assert width < 1400 or first["y"] + first["height"] < 900  # whole, above the fold
        assert page.locator("h1").count() == 1 and page.locator("#limits").is_visible()
        found = axe.Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
    assert said == [] and all(url.startswith(("file:", "data:")) for url in asked)
