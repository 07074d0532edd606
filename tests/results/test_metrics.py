"""The table of scores has a row for each center, device and patient."""

import numpy as np
import pandas as pd
import pytest

from busfast.results.metrics import assess, by_patient, count_shares
from results.simulated import CLASSES, simulate_predictions


def predictions(n=120, seed=0):
    labels, probabilities, _ = simulate_predictions(n, seed)
    table = pd.DataFrame({"image": [f"{number}.png" for number in range(n)], "part": "test",
                          "center": np.where(np.arange(n) % 3 == 0, "north", "south"), "device": "",
                          "patient": [f"p{number // 2}" for number in range(n)],
                          "label": np.array(CLASSES)[labels]})
    table["group"] = "patient " + table["patient"]
    return table.assign(**{f"p_{name}": probabilities[:, k] for k, name in enumerate(CLASSES)})


def test_a_patient_has_the_mean_of_its_images():
    table = predictions(4).assign(label="benign", center="north")
    found = by_patient(table, CLASSES)
    assert found["patient"].tolist() == ["p0", "p1"]
    assert found["p_benign"].tolist() == pytest.approx([table["p_benign"][:2].mean(), table["p_benign"][2:].mean()])


def test_every_center_has_its_scores_and_one_without_a_class_or_of_one_image_is_said_so():
    table = predictions()
    table.loc[(table["center"] == "north") & (table["label"] == "malignant"), "label"] = "benign"
    lone = table[:1].assign(image="lone.png", center="lone", group="lone")
    found = assess(pd.concat([table, lone], ignore_index=True), CLASSES).set_index(["by", "value", "score"])
    assert set(found.loc["center"].index.get_level_values(0)) == {"north", "south", "lone"}
    assert np.isnan(found.loc[("center", "north", "macro_auc"), "estimate"])
    assert found.loc[("center", "south", "macro_auc"), "low"] < found.loc[("center", "south", "macro_auc"), "high"]
    assert np.isnan(found.loc[("center", "lone", "accuracy"), "low"]) or \
        found.loc[("center", "lone", "accuracy"), "estimate"] in (0, 1)
    known = found.dropna()
    assert (known["low"] <= known["estimate"]).all() and (known["estimate"] <= known["high"]).all()
    assert found.loc[("all", "", "macro_auc"), "images"] == 121 and found.loc[("all", "", "macro_auc"), "groups"] == 61
    assert "device" not in found.index.get_level_values(0)  # there is but one


def test_every_score_that_is_a_share_is_what_its_counts_say():
    table = predictions()
    found = assess(table, CLASSES, with_intervals=False).set_index(["part", "by", "value", "score"])["estimate"]
    counts = count_shares(table, CLASSES)
    assert {key[1:3] for key in counts} == {("all", ""), ("center", "north"), ("center", "south"), ("patient", "")}
    for key, (hits, total) in counts.items():
        assert found[key] == pytest.approx(hits / total)
    assert {key[3] for key in counts} == {"accuracy", *(f"{rate}_{name}" for name in CLASSES for rate in (
        "sensitivity", "specificity", "ppv", "npv"))}
    ill = (table["label"] == "malignant").sum()
    assert counts["test", "all", "", "sensitivity_malignant"][1] == ill
    assert counts["test", "all", "", "specificity_malignant"][1] == len(table) - ill
