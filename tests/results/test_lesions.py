"""Scores are shown for small and large lesions, and by age and sex. Covers busfast/results/lesions.py."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from busfast.cli import main
from busfast.results.evaluation import summarize
from busfast.results.lesions import add_lesion_area
from busfast.results.metrics import subsets
from busfast.results.predictions import read_predictions
from busfast.results.report import gather
from busfast.training.runs import Run


def test_the_area_is_the_masks_share_of_the_image_whatever_its_shape(tmp_path, capsys):
    mask = np.zeros((60, 120), np.uint8)
    mask[15:45, 30:60] = 255
    Image.fromarray(mask).save(tmp_path / "a.png")
    Image.fromarray(0 * mask).save(tmp_path / "none.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    rows = pd.DataFrame({"mask": ["a.png", "none.png", "", "gone.png", "broken.png"]})
    areas = add_lesion_area(rows, tmp_path)["lesion_area"].tolist()
    assert float(areas[0]) == pytest.approx(30 * 30 / (60 * 120)) and areas[1:] == ["", "", "", ""]
    assert "1 mask cannot be read, such as broken.png" in capsys.readouterr().out
    assert "lesion_area" not in add_lesion_area(rows.assign(mask=""), tmp_path)


def test_thirds_have_as_many_images_and_what_has_no_number_is_in_none():
    part = pd.DataFrame({"age": [str(age) for age in range(20, 50)] + ["", "old"], "sex": ["F", "M"] * 16,
                         "lesion_area": ["0.1"] * 32})
    found = [(by, value, len(rows)) for by, value, rows in subsets(part)]
    assert found == [("all", "", 32), ("sex", "F", 16), ("sex", "M", 16),
                     ("age", "20 to 29", 10), ("age", "30 to 39", 10), ("age", "40 to 49", 10)]


def test_a_report_has_lesion_size_age_and_sex(evaluated):
    run, rng = Run("phantom/center_holdout"), np.random.default_rng(0)
    split = pd.read_csv(run.results / "split.csv", dtype=str, keep_default_na=False)
    split["age"], split["sex"] = rng.integers(18, 90, len(split)).astype(str), rng.choice(["F", "M", ""], len(split))
    split.to_csv(run.results / "split.csv", index=False)
    assert main(["evaluate", f"--run={run.name}", "--again"]) == 0
    found = summarize(run, reuse=True)
    rows = read_predictions(run, found.config.classes).merge(split, on="image")
    assert (rows["age_x"] == rows["age_y"]).all() and (rows["sex_x"] == rows["sex_y"]).all()
    masked = rows["mask"] != ""
    assert ((rows["lesion_area"] != "") == masked).all() and masked.any()
    assert rows["lesion_area"][masked].astype(float).between(0.001, 0.5).all()
    grids = {grid["columns"][0]: grid for grid in gather(found, {})["subsets"]}
    assert [row[0] for row in grids["sex"]["rows"]] == ["unknown", "F", "M"] and len(grids["age"]["rows"]) == 3
    sizes = grids["lesion area"]["rows"]
    assert sum(int(row[1]) for row in sizes) == (rows["part_x"][masked] == "test").sum()
    assert all(row[0].count("%") == 2 and row[3] != "not defined" for row in sizes)
