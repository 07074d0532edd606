"""Single images of the report are those of the test part, with what the model said of each."""

import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from busfast.cli import main
from busfast.data.audit_page import embed_images
from busfast.results.cases import SHOWN, WORST, draw_cases, score_cases, show_cases, worst_cases
from busfast.results.evaluation import summarize
from busfast.training.runs import Run
from results.simulated import CLASSES, simulate_predictions

NAME = "phantom/center_holdout"


def scored(n=90):
    labels, probabilities, _ = simulate_predictions(n, 0)
    table = pd.DataFrame({"image": [f"{number}.png" for number in range(n)], "label": np.array(CLASSES)[labels],
                          "group": [f"p{number // 3}" for number in range(n)]})
    for index, name in enumerate(CLASSES):
        table[f"p_{name}"], table[f"logit_{name}"] = probabilities[:, index], np.log(probabilities[:, index]) + 7
    return score_cases(table, CLASSES)


def test_the_loss_is_the_cross_entropy_and_the_worst_are_the_wrong_ones_of_the_largest():
    table = scored()
    assert np.allclose(table["loss"], -np.log(table["p_label"])) and np.allclose(table["p"], table[
        [f"p_{name}" for name in CLASSES]].max(axis=1))
    assert table["right"].tolist() == (table["predicted"] == table["label"]).tolist()
    worst = worst_cases(table)
    assert len(worst) == WORST and not worst["right"].any() and worst["loss"].is_monotonic_decreasing
    assert not worst["group"].duplicated().any()
    rest = table[~table["right"] & ~table["group"].isin(worst["group"])]
    assert len(rest) and worst["loss"].min() >= rest["loss"].max()
    assert worst["loss"].iloc[0] == table["loss"][~table["right"]].max()


def test_right_and_wrong_ones_are_drawn_the_same_for_a_seed_and_one_of_a_patient():
    table = scored()
    drawn = draw_cases(table, 1)
    assert drawn["right"].tolist() == [True] * SHOWN + [False] * SHOWN
    assert not drawn.duplicated(["right", "group"]).any() and drawn.equals(draw_cases(table, 1))
    assert not drawn.equals(draw_cases(table, 2))
    assert draw_cases(table[table["right"]].head(2), 1)["right"].all()  # none is wrong


def test_the_report_shows_test_images_only_each_with_its_own_pixels_and_counts(evaluated):
    found = summarize(Run(NAME), reuse=True)
    shown = show_cases(found)
    test = found.test.set_index("image")
    *classes, worst = shown["groups"]
    assert shown["missing"] == "" and worst[0] == "Wrong predictions with the largest loss"
    for name, (title, cards) in zip(CLASSES, classes, strict=True):  # in the order of the classes
        of = test[test["label"] == name]
        assert title == f"{name}: {(of['predicted'] == name).sum()} of {len(of)} right"
        assert {card["label"] for card in cards} == {name}
    for card in [card for _, cards in shown["groups"] for card in cards]:
        row = test.loc[card["image"]]
        assert (card["label"], card["predicted"]) == (row["label"], row["predicted"])
        assert card["p"] == pytest.approx(row[f"p_{row['predicted']}"])
        assert card["data"] == embed_images([evaluated / "data" / "phantom" / card["image"]])[0]
    assert main(["report", f"--run={NAME}"]) == 0
    page = (Run(NAME).results / "report.html").read_text()
    assert page.count("data:image/jpeg") == sum(len(cards) for _, cards in shown["groups"])
    kept = re.sub("<!-- images -->.*?<!-- /images -->", "", page, flags=re.DOTALL)  # as trackers do
    assert "data:image/jpeg" not in kept


def test_an_image_that_changed_since_it_was_predicted_is_not_shown(evaluated):
    image = worst_cases(score_cases(summarize(Run(NAME)).test, CLASSES))["image"].iloc[0]
    Image.new("L", (70, 60)).save(evaluated / "data" / "phantom" / image)
    shown = show_cases(summarize(Run(NAME), reuse=True))
    assert shown["groups"] == [] and f"changed since it was trained, such as {image}" in shown["missing"]
    assert main(["report", f"--run={NAME}"]) == 0
    assert f"The images cannot be shown: 1 image of {NAME} changed" in (Run(NAME).results / "report.html").read_text()
