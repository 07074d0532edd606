"""Every image that was found is in the flow, with why it was left out. Covers busfast/results/flow.py."""

import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from busfast.cli import main
from busfast.data.quarantine import find_left_out
from busfast.data.table import read_table
from busfast.results.evaluation import External, summarize
from busfast.results.flow import ALL, count_flow
from busfast.results.report import gather
from busfast.training.runs import Run


def steps(found, center=ALL):
    table = count_flow(found)
    return {row.step: (row.images, row.groups) for row in table[table["center"] == center].itertuples()}


def test_the_parts_of_a_run_add_up_to_what_was_found(evaluated):
    found = summarize(Run("phantom/center_holdout"))
    split = pd.read_csv(Run("phantom/center_holdout").results / "split.csv")
    counted = steps(found)
    assert counted["found"] == (len(split), split["group"].nunique()) and counted["test"][0] == len(found.test)
    for center in (ALL, *split["center"].unique()):
        here = steps(found, center)
        assert here["found"][0] == sum(images for step, (images, _) in here.items() if step != "found")
    rows = split[(split["center"] == "gamma") & (split["part"] == "test")]
    assert steps(found, "gamma")["test"] == (len(rows), rows["group"].nunique())
    shutil.copy(Run("phantom/center_holdout").results / "split.csv", "kept.csv")
    (Run("phantom/center_holdout").results / "split.csv").unlink()
    assert count_flow(found).empty and not gather(found, {})["flow"]["steps"]


def test_of_another_set_what_it_was_left_out_for_is_counted(evaluated):
    found = summarize(Run("phantom/center_holdout"))
    found = replace(found, external=External("", ()), predictions=found.predictions.assign(
        part=found.predictions["part"].replace("test", "external")))
    (found.run.results / "left_out.csv").write_text("image,label,reason,other\na.png,cyst,unknown label,\n"
                                                    "b.png,benign,identical,c.png\n")
    counted = steps(found)
    assert counted["left out: unknown label"] == counted["left out: identical"] == (1, 1)
    assert counted["external"][0] == len(found.test) == counted["found"][0] - 2 and "train" not in counted


@pytest.fixture
def odd(workdir, phantom_folder):
    """A set with an unreadable image, a copy, and images of another class."""
    shutil.copytree(phantom_folder, "data/odd")
    table = pd.read_csv("data/odd/table.csv", dtype=str, keep_default_na=False)
    first = table.iloc[0]
    Path("data/odd/cut.png").write_bytes(b"not an image")
    shutil.copy(Path("data/odd") / first["image"], "data/odd/copy.png")
    Image.new("L", (64, 64), 0).save("data/odd/flat.png")
    for name in ("cyst1", "cyst2"):
        Image.effect_noise((64, 64), 90).save(f"data/odd/{name}.png")
    more = [first.to_dict() | {"image": f"{name}.png", "label": label, "patient": patient, "mask": ""}
            for name, label, patient in (("cut", first["label"], "p1"), ("copy", first["label"], first["patient"]),
                                         ("flat", first["label"], "p2"), ("cyst1", "cyst", "p3"),
                                         ("cyst2", "cyst", "p3"))]
    pd.concat([table, pd.DataFrame(more)]).to_csv("data/odd/table.csv", index=False)
    with open("pipelines/phantom.yaml", "a") as file:
        file.write("classes: [normal, benign, malignant]\n")
    return len(table)


def test_what_the_quarantine_and_the_classes_leave_out_is_recorded_and_shown(odd, capsys):
    assert main("audit --data=data/odd --quarantine".split()) == 0
    assert main("train --pipeline=phantom --data=data/odd-clean --epochs=1 --then=evaluate".split()) == 0
    run = Run("phantom/stratified")
    left = pd.read_csv(run.results / "left_out.csv").set_index("image")["reason"].to_dict()
    assert {name: reason.split()[0] for name, reason in left.items()} == {
        "cut.png": "unreadable:", "flat.png": "constant:", "cyst1.png": "not", "cyst2.png": "not",
        next(name for name in left if left[name].startswith("identical")): "identical"}
    counted = steps(summarize(run))
    assert counted["found"][0] == odd + 5 and counted["left out: not of a class"] == (2, 1)
    assert [counted[f"left out: {reason}"][0] for reason in ("constant", "identical", "unreadable")] == [1, 1, 1]
    # The copy is of a patient whose other images stay; the three others have ids of their own.
    split = pd.read_csv(run.results / "split.csv")
    assert counted["found"][1] == split["group"].nunique() + 3
    assert find_left_out(read_table("data/odd-clean", ())).shape == (3, 5)
    Path("data/odd-clean/left_out.csv").write_text("file,why\nx.png,blurred\n")  # of another tool
    assert find_left_out(read_table("data/odd-clean", ())).empty
