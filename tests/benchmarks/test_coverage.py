import coverage
import numpy as np
import pytest


def test_every_score_gets_a_row_for_each_number_of_patients_with_what_held_before_and_after(tmp_path, monkeypatch):
    monkeypatch.setattr(coverage, "PATIENTS", (5, 40))
    monkeypatch.setattr(coverage, "SETTINGS", {name: coverage.SETTINGS[name] for name in ("even", "sharp")})
    monkeypatch.setattr(coverage, "DRAWS", 60)
    monkeypatch.setattr(coverage, "LARGE", 4000)
    rows = coverage.run(tmp_path, 6).rows.set_index("name")
    scores = [*coverage.SCORES, coverage.DELONG, *(f"difference of {name}" for name in coverage.COMPARED)]
    assert {f"{name}, 40" for name in scores} <= set(rows.index)
    of_many = rows.loc[[f"{name}, 40" for name in scores]]
    lines = coverage.run(tmp_path, 6, only=["intercept", "slope", "temperature"]).rows.set_index("name")
    assert all(name.startswith(("intercept", "slope", "temperature")) for name in lines.index) and len(lines)
    assert lines["after"].tolist() == rows.loc[lines.index, "after"].tolist() and lines["before"].isna().all()
    assert (of_many["given"] == 1).all()
    assert of_many["mean_after"].drop(f"{coverage.DELONG}, 40").between(0.7, 1).all()
    assert rows.at[f"{coverage.DELONG}, 40", "after"] < rows.at["auc_malignant, 40", "after"]
    assert rows.at["accuracy, 5", "width_after"] > 2 * rows.at["accuracy, 40", "width_after"] > 0
    assert (rows["after"] <= rows["mean_after"] + 1e-9).all() and rows.at["macro_auc, 40", "width_before"] > 0


def test_the_simulated_images_of_a_patient_are_alike_and_the_second_model_is_worse():
    rng = np.random.default_rng(0)
    labels, first, second, groups = coverage.simulate(rng, 2000, *coverage.SETTINGS["several images"])
    right = first.argmax(1) == labels
    means = np.bincount(groups, right) / np.bincount(groups)
    assert means.std() > 1.2 * np.sqrt(right.mean() * (1 - right.mean()) * (1 / np.bincount(groups)).mean())
    assert first.sum(1) == pytest.approx(1) and (second.argmax(1) == labels).mean() < right.mean() - 0.02
