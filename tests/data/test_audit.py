"""The figures of an audit are those one gets by hand; findings name what is there and no more.

Covers busfast/data/audit_page.py and busfast/data/duplicate_pairs.py, too.
"""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from busfast.data import read_table
from busfast.data.audit import audit_images, audit_table, confound, count_findings, format_groups
from busfast.data.audit_page import format_confounding, write_audit
from busfast.data.duplicate_pairs import COLUMNS, NO_DUPLICATES
from busfast.data.groups import add_groups, group_names

CLASSES = ("normal", "benign", "malignant")


def make(*rows, **columns):
    """A table of (label, center, patient) rows."""
    table = pd.DataFrame(rows, columns=["label", "center", "patient"], dtype=object)
    table.insert(0, "image", [f"{number}.png" for number in range(len(table))])
    return table.assign(group="", **columns)


def pairs(*rows):
    """Copies: (a, b, kind)."""
    return pd.DataFrame([(a, b, f"{a}.png", f"{b}.png", kind, 1.0, False) for a, b, kind in rows], columns=COLUMNS)


def findings(audit, *names):
    return [tuple(row) for row in audit.findings[list(names)].itertuples(index=False)]


@pytest.mark.parametrize(("counts", "v", "by_center", "by_class"), [
    ([[10, 0], [0, 10]], 1.0, 1.0, 0.5),
    ([[10, 10], [5, 5]], 0.0, 0.5, 0.5),
    ([[30, 10], [10, 30]], 0.5, 0.75, 0.5),  # chi2 = 80 * (30*30 - 10*10)**2 / 40**4 = 20; V = sqrt(20 / 80)
])
def test_cramers_v_and_the_guesses_are_those_computed_by_hand(counts, v, by_center, by_class):
    rows = [(label, center, "") for center, row in zip("AB", counts, strict=True)
            for label, count in zip(CLASSES, row, strict=False) for _ in range(count)]
    table, *found = confound(make(*rows), CLASSES)
    assert table.to_numpy().tolist() == counts and list(table.columns) == ["normal", "benign"]
    assert found == pytest.approx([v, by_center, by_class])


@pytest.mark.parametrize(("labels", "gain"), [(("normal", "benign"), "can gain 50 points"),
                                              (("normal", "normal"), "gains nothing")])
def test_what_the_center_gives_away_is_said(labels, gain):
    rows = [(labels[0], "A", ""), (labels[1], "B", ""), ("normal", "A", ""), ("benign", "B", "")]
    text = format_confounding(audit_table(make(*rows), None, NO_DUPLICATES, classes=CLASSES[:2]))
    assert f"a model {gain} by recognizing the center" in text


def test_without_centers_or_with_one_nothing_is_claimed():
    for center, words in (("", "No image names its center"), ("A", "cannot predict")):
        audit = audit_table(make(("normal", center, ""), ("benign", center, "")), None, NO_DUPLICATES)
        assert np.isnan(audit.cramers_v) and words in format_confounding(audit)


def test_patients_under_several_labels_and_ids_at_several_centers_are_found_once_each():
    table = make(("normal", "A", "1"), ("benign", "A", "1"), ("benign", "A", "1"), ("benign", "B", "1"),
                 ("normal", "B", "2"), ("normal", "B", ""), ("benign", "B", ""))
    audit = audit_table(table, None, NO_DUPLICATES, classes=CLASSES[:2])
    assert findings(audit, "finding", "image", "detail") == [
        ("patient with several labels", "0.png", "patient 1 of A: 2 benign, 1 normal"),
        ("patient id at several centers", "0.png", "patient 1: 3 A, 1 B")]


def several_writings(table):
    audit = audit_table(table, None, NO_DUPLICATES, classes=("a",))
    return [row for row in findings(audit, "finding", "detail") if "writings" in row[0]]


@pytest.mark.parametrize(("column", "writings", "detail"), [
    ("patient", ("007", "7"), "'007' (1 image), '7' (2 images) of A: one patient, or 2?"),
    ("patient", ("25.0", "25"), "'25' (2 images), '25.0' (1 image) of A: one patient, or 2?"),
    ("center", ("North Hospital", "north-hospital"), "'North Hospital' (1 image), 'north-hospital' (2 images): one"),
    ("label", ("Gr\u00f6\u00dfe", "Gro\u0308\u00dfe"), "(1 image): one label, or 2?"),
])
def test_what_may_be_one_in_several_writings_is_found(column, writings, detail):
    table = make(*(("a", "A", patient) for patient in ("1", "2", "2", "10", "1-2", "12")))
    assert several_writings(table) == []
    table.loc[[0, 1, 2], column] = [writings[0], writings[1], writings[1]]
    (finding, said), = several_writings(table)
    assert finding == f"{column} in several writings" and detail in said


def test_ids_alike_at_different_centers_are_different_patients():
    assert several_writings(make(("a", "A", "007"), ("a", "B", "7"))) == []


def test_a_class_that_a_center_lacks_is_found():
    table = make(("normal", "A", "1"), ("benign", "A", "2"), ("benign", "B", "3"))
    assert findings(audit_table(table, None, NO_DUPLICATES), "finding", "detail") == [
        ("class missing", "there is no malignant image"), ("class missing at a center", "B has no normal image")]


def test_pairs_say_what_differs_and_those_to_decide_come_first():
    table = make(("benign", "A", "1"), ("benign", "A", "1"), ("benign", "A", "2"), ("normal", "B", "2"),
                 ("benign", "A", ""))
    audit = audit_table(table, None, pairs((0, 1, "identical"), (0, 2, "identical"), (2, 3, "identical"),
                                           (0, 4, "near-duplicate")))
    rows = [row for row in findings(audit, "finding", "image", "other", "differs") if row[2]]
    assert rows == [("identical", "2.png", "3.png", "center, label, patient"),
                    ("identical", "0.png", "2.png", "patient"), ("identical", "0.png", "1.png", ""),
                    ("near-duplicate", "0.png", "4.png", "")]
    assert ("identical", "3 pairs, 1 of different labels, 2 of different patients, 1 of different centers") in \
        count_findings(audit.findings)


def test_a_decision_is_kept_even_if_its_pair_is_found_no_more():
    decisions = {frozenset(("0.png", "1.png")): "different", frozenset(("x.png", "y.png")): "same"}
    table = make(("benign", "A", "1"), ("benign", "A", "2"))
    audit = audit_table(table, None, pairs((0, 1, "near-duplicate")), decisions, classes=["benign"])
    assert findings(audit, "finding", "image", "other", "decision") == [
        ("near-duplicate", "0.png", "1.png", "different"), ("decided before", "x.png", "y.png", "same")]
    assert [name for name, _ in count_findings(audit.findings)] == ["decided to be different", "decided before"]


def test_flags_of_a_source_are_shares_of_each_class_of_those_known():
    table = make(*[("benign", "A", "")] * 4, *[("normal", "A", "")] * 2, marks=["yes", "No", "YES", "", "no", "no"])
    flags = audit_table(table, None, NO_DUPLICATES).flags
    assert flags.to_dict("records") == [{"flag": "marks", "images": 5, "benign": 0.667, "normal": 0.0}]


def test_groups_join_patients_copies_and_groups_of_ones_own():
    table = make(("benign", "A", "1"), ("benign", "A", "1"), ("benign", "B", "1"), ("benign", "A", ""),
                 ("benign", "A", ""), ("benign", "A", "9")).assign(group=["", "", "", "mine", "mine", ""])
    joined = add_groups(table, np.array([1]), np.array([3]))
    groups = joined["group"].tolist()
    assert groups[0] == groups[1] == groups[3] == groups[4] != "" and groups[2] == groups[5] == ""
    assert format_groups(joined) == "3 groups (patients and duplicates joined), the largest of 4 images"
    assert table["group"].tolist() == ["", "", "", "mine", "mine", ""]


def test_an_audit_of_images_heeds_what_was_decided_about_this_very_table(tmp_path, monkeypatch, phantom_folder):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data" / "set"
    folder.mkdir(parents=True)
    Image.open(phantom_folder / read_table(phantom_folder).rows["image"][0]).convert("L").save(folder / "a.png")
    Image.open(folder / "a.png").save(folder / "b.jpg", quality=60)
    (folder / "c.png").write_bytes((folder / "a.png").read_bytes()[:2000])
    (folder / "table.csv").write_text("image,label\na.png,benign\nb.jpg,odd\nc.png,benign\n")
    table = read_table(folder, other_labels=True)
    audit, duplicates = audit_images(table)
    assert {("near-duplicate", "a.png", "b.jpg"), ("unreadable", "c.png", "")} <= set(
        findings(audit, "finding", "image", "other"))
    assert duplicates[["image", "other"]].to_numpy().tolist() == [["a.png", "b.jpg"]]
    assert audit_images(table, metadata_only=True)[1].empty

    written = write_audit(audit, folder / "audit")[0]
    found = pd.read_csv(written, dtype=str, keep_default_na=False)
    found.loc[found["finding"] == "near-duplicate", "decision"] = "different"
    found.to_csv(written, index=False)
    audit, duplicates = audit_images(table)
    assert duplicates.empty and "different" in set(audit.findings["decision"])


def test_a_group_is_named_by_its_own_rows_alone():
    table = make(("benign", "A", "2"), ("benign", "A", "1"), ("benign", "A", "2"), ("benign", "A", ""))
    names = group_names(table, across_centers=False)
    some = group_names(table.iloc[[3, 2]], across_centers=False)
    assert names.tolist() == ["patient 2 of center A", "patient 1 of center A", "patient 2 of center A", "image 3.png"]
    assert some.tolist() == ["image 3.png", "patient 2 of center A"]


def test_the_page_is_whole_at_any_width_and_accessible(phantom_folder, tmp_path, browser):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    images = sorted((phantom_folder / "images").iterdir())[:3]
    for path, name in zip([*images, images[0]], "abcd", strict=True):
        (tmp_path / f"{name}{path.suffix}").write_bytes(path.read_bytes())
    (tmp_path / "e.png").write_bytes(b"no image")
    rows = [f"{path.name},{label},alpha" for path, label in zip(sorted(tmp_path.iterdir()), (*CLASSES, *CLASSES[1:]),
                                                                strict=True)]
    (tmp_path / "table.csv").write_text("\n".join(["image,label,center", *rows]))
    write_audit(audit_images(read_table(tmp_path))[0], tmp_path)
    page = browser.new_page()
    for width in (400, 1400):
        page.set_viewport_size({"width": width, "height": 900})
        page.goto((tmp_path / "audit.html").as_uri())
        assert page.locator(".pair.conflict img").count() == 2  # a copy under another label
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator(".scroll").first.evaluate("one => one.scrollWidth <= one.clientWidth")
        found = axe.Axe().run(page)
        assert found.violations_count == 0, found.generate_report()


def test_nothing_from_a_table_becomes_markup_on_the_page(tmp_path):
    evil = "<script>alert(1)</script>"
    table = make(("benign", evil, "1"), ("benign", "B", "1"), ("normal", "B", evil)).assign(
        image=[evil, "=1+1.png", "é, \"q\".png"])
    paths = write_audit(audit_table(table, None, NO_DUPLICATES), tmp_path / "audit")
    page = (tmp_path / "audit" / "audit.html").read_text(encoding="utf-8")
    assert "<script" not in page and "&lt;script&gt;" in page
    assert [path.name for path in paths] == ["audit.csv", "audit.html"]
