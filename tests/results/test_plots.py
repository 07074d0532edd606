"""Each picture of the report shows the data that it says it shows: classes in their order, and counts."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps
from sklearn.metrics import (
    auc,
    average_precision_score,
    confusion_matrix,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from busfast.pipelines.config import Config
from busfast.results import plots
from busfast.results.evaluation import make_evaluation
from busfast.results.predictions import make_predictions
from busfast.training.runs import Run

CLASSES = ("zero", "Middle", "a last one")  # an order that no sorting gives
COUNTS = {"north": 70, "south": 50}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """An evaluation of 120 validation and 120 test images of two centers; the class "zero" is the rarest."""
    rng = np.random.default_rng(0)
    tables = []
    for part in ("valid", "test"):
        labels = rng.choice(3, 120, p=[0.2, 0.3, 0.5])
        rows = pd.DataFrame({"image": [f"{part}{number}.png" for number in range(120)], "part": part, "device": "",
                             "center": np.repeat(list(COUNTS), list(COUNTS.values())), "patient": "",
                             "label": np.array(CLASSES)[labels]})
        logits = rng.normal(0, 1, (120, 3)) + 1.5 * np.eye(3)[labels]
        tables.append(make_predictions(Config(classes=CLASSES), rows.assign(group=rows["image"]), logits))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("plots"))
        patch.setattr(plots, "BAND", 5)
        yield make_evaluation(Run("a/run"), Config(classes=CLASSES), {}, pd.concat(tables, ignore_index=True), "Middle")


def labels_and_probabilities(found, part="test", prefix="p_"):
    rows = found.part(part)
    return rows["label"].to_numpy(), rows[[f"{prefix}{name}" for name in CLASSES]].to_numpy()


def texts(items):
    return [item.get_text() for item in items]


def lines(axes):
    return {line.get_label(): line for line in axes.lines}


@pytest.mark.parametrize(("draw", "score", "title"), [(plots.draw_roc, roc_auc_score, "AUC"),
                                                      (plots.draw_pr, average_precision_score, "AP")])
def test_curves_are_square_and_have_the_area_that_their_legend_names(found, draw, score, title):
    figure, _ = draw(found)
    figure.draw_without_rendering()
    axes, (labels, probabilities) = figure.axes[0], labels_and_probabilities(found)
    box = axes.get_position()
    assert box.width * figure.get_figwidth() == pytest.approx(box.height * figure.get_figheight())
    legend = texts(figure.legends[0].get_texts())
    for index, name in enumerate(CLASSES):  # in the order of the classes
        area = score(labels == name, probabilities[:, index])
        assert legend[index].startswith(f"{name}: {title} {area:.3f} (")
        line = lines(axes)[legend[index]]
        assert auc(line.get_xdata(), line.get_ydata()) == pytest.approx(area, abs=0.02)


@pytest.mark.filterwarnings("ignore")  # scikit-learn's, of the draw without images of the class
def test_the_curves_of_all_draws_at_once_are_those_of_each_draw_by_scikit_learn():
    rng = np.random.default_rng(0)
    positive, values = rng.random(40) < 0.3, rng.integers(0, 15, 40) / 15  # some are equal
    weights = rng.integers(0, 3, (30, 40)).astype(float)
    weights[0, values == values.max()] = 0
    weights[1, positive] = 0
    for one, roc, pr in zip(weights, plots.roc_heights(positive, values, weights),
                            plots.pr_heights(positive, values, weights), strict=True):
        alarms, hits, _ = roc_curve(positive, values, sample_weight=one)
        assert np.allclose(roc, np.interp(plots.GRID, alarms, hits), 0, 1e-12, equal_nan=True)
        precision, recall, _ = precision_recall_curve(positive, values, sample_weight=one)
        assert np.allclose(pr, np.interp(plots.GRID, recall[::-1], precision[::-1]), 0, 1e-12)


def test_confusion_matrices_count_in_the_order_of_the_classes_in_every_part(found):
    figure, text = plots.draw_confusion(found)
    for axes, part in zip(figure.axes, ("valid", "test"), strict=True):
        labels, probabilities = labels_and_probabilities(found, part)
        counts = confusion_matrix(labels, np.array(CLASSES)[probabilities.argmax(1)], labels=list(CLASSES))
        assert texts(axes.get_xticklabels()) == list(CLASSES)
        assert texts(axes.get_yticklabels()) == (list(CLASSES) if part == "valid" else [])  # the same beside both
        assert [int(cell.split("\n")[0]) for cell in texts(axes.texts)] == counts.ravel().tolist()
        assert np.allclose(axes.images[0].get_array(), counts / counts.sum(1, keepdims=True))
        assert (axes.get_xlabel(), part in axes.get_title("left")) == ("predicted class", True)
    figure.draw_without_rendering()
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    assert all(figure.bbox.y0 <= box.y0 and box.y1 <= figure._suptitle.get_window_extent().y0 for box in boxes)
    assert f"zero: {counts[0, 0]} of {counts[0].sum()} right" in text


def test_the_bins_of_the_reliability_are_those_of_the_probabilities_and_say_how_many_images_they_hold(found):
    axes = plots.draw_reliability(found)[0].axes[0]
    numbers = texts(axes.texts)
    for prefix, label in (("p_", "as trained"), ("c_", "calibrated")):
        labels, probabilities = labels_and_probabilities(found, prefix=prefix)
        sure, right = probabilities.max(1), np.array(CLASSES)[probabilities.argmax(1)] == labels
        bins = [(sure >= low / plots.BINS) & (sure < (low + 1) / plots.BINS) for low in range(plots.BINS)]
        shown = [rows for rows in bins if rows.sum() >= plots.MIN_BIN]
        line = next(line for name, line in lines(axes).items() if name.startswith(label))
        assert np.allclose(line.get_xdata(), [sure[rows].mean() for rows in shown])
        assert np.allclose(line.get_ydata(), [right[rows].mean() for rows in shown])
        assert [int(numbers.pop(0)) for _ in shown] == [rows.sum() for rows in shown]
        hidden = 120 - sum(rows.sum() for rows in shown)
        assert (f"{hidden} of 120 images are in smaller bins" in line.get_label()) == (hidden > 0)
    assert numbers == []


def test_centers_show_their_scores_and_what_the_sensitivity_is_a_share_of(found):
    figure, text = plots.draw_centers(found)
    axes, (labels, probabilities) = figure.axes[0], labels_and_probabilities(found)
    assert texts(axes.get_yticklabels()) == ["all (120 images)", "north (70 images)", "south (50 images)"]
    predicted, center = np.array(CLASSES)[probabilities.argmax(1)], found.test["center"].to_numpy()
    kinds = [center != "", center == "north", center == "south"]
    counts = [((predicted == labels)[rows & (labels == "Middle")].sum(), (rows & (labels == "Middle")).sum())
              for rows in kinds]
    assert [one for one in texts(axes.texts) if one] == [f"{right} of {count}" for right, count in counts]
    macro = [np.mean([roc_auc_score((labels == name)[rows], probabilities[rows, index])
                      for index, name in enumerate(CLASSES)]) for rows in kinds]
    mean_auc, sensitivity = (bars.lines[0].get_xdata() for bars in axes.containers)
    assert np.allclose(sensitivity, [right / count for right, count in counts], atol=6e-4)
    assert np.allclose(mean_auc, macro, atol=6e-4)
    assert f"south {counts[2][0] / counts[2][1]:.2f} ({counts[2][0]} of {counts[2][1]})" in text


def test_operating_points_are_the_rates_at_every_threshold_with_the_chosen_one_marked(found):
    figure, text = plots.draw_operating(found)
    axes, rows = figure.axes[0], found.test
    positive, values = (rows["label"] == "Middle").to_numpy(), rows["c_Middle"].to_numpy()
    for label, group, expected in (("sensitivity", positive, True), ("specificity", ~positive, False)):
        line = lines(axes)[label]
        assert np.allclose(line.get_ydata(), [((values >= x) == expected)[group].mean() for x in line.get_xdata()])
    (threshold,) = found.thresholds.values()
    assert threshold in [line.get_xdata()[0] for line in axes.lines]
    hits = (values >= threshold)[positive].sum()
    assert f"threshold {threshold:.3f}: sensitivity {hits / positive.sum():.3f} (" in text
    assert f", {hits} of {positive.sum()}, specificity" in text


def test_the_label_of_an_operating_point_is_crossed_by_no_line_wherever_the_threshold_is(found, monkeypatch):
    blank = dict.fromkeys(("sensitivity", "specificity"), "")
    for threshold in (0.0, 0.2, 0.4, 0.7, 0.99):
        monkeypatch.setattr(type(found), "points_of_test", lambda self, at=threshold: [((0.9, at), None)])
        monkeypatch.setattr(type(found), "show_point", lambda self, *args: blank)
        axes = plots.draw_operating(found)[0].axes[0]
        axes.figure.draw_without_rendering()
        box = axes.texts[0].get_window_extent()
        assert axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1, threshold
        paths = [line.get_path().transformed(line.get_transform()) for line in axes.lines]
        assert not any(path.intersects_bbox(box, filled=False) for path in paths), threshold


def test_the_decision_curve_is_the_net_benefit_counted_by_hand(found):
    axes, rows = plots.draw_decision(found)[0].axes[0], found.test
    positive, values = (rows["label"] == "Middle").to_numpy(), rows["c_Middle"].to_numpy()
    model, everyone, nobody = (lines(axes)[name] for name in ("model", "act on all", "act on none"))
    place = np.argmin(np.abs(model.get_xdata() - 0.25))  # acting from there on, a false alarm costs a third of a hit
    called = values >= 0.25
    assert model.get_ydata()[place] == pytest.approx(((called & positive).sum() - (called & ~positive).sum() / 3) / 120)
    assert everyone.get_ydata()[place] == pytest.approx((positive.sum() - (~positive).sum() / 3) / 120)
    assert not np.any(nobody.get_ydata())


def test_the_picture_of_compare_shows_each_run_of_one_data_set_in_the_tables_order_with_its_whole_interval(monkeypatch):
    figures, nan = [], float("nan")
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: figures.append(figure))
    table = pd.DataFrame({"run": ["d/other", "b/two", "a/one", "c/few"], "data": ["else", *["data/set"] * 3],
                          "test_macro_auc": [1, 0.9, 0.5, 0.7], "test_low": [0.1, 0.8, 0.31, nan],
                          "test_high": [1, 0.95, 0.8, nan]})
    plots.draw_tests(table, None)
    (axes,), table = figures[0].axes, table[1:]
    assert "1 run of other data not shown" in axes.get_title()
    names = dict(zip(axes.get_yticks(), texts(axes.get_yticklabels()), strict=True))
    assert list(names.values()) == list(table["run"]) and axes.yaxis_inverted()  # the first one is the highest
    points, _, (bars,) = axes.containers[0]
    assert {names[y]: x for x, y in zip(*points.get_data(), strict=True)} == dict(
        zip(table["run"], table["test_macro_auc"], strict=True))
    shown = {names[low[1]]: (low[0], high[0]) for low, high in bars.get_segments()}
    assert shown == {"b/two": pytest.approx((0.8, 0.95)), "a/one": pytest.approx((0.31, 0.8)), "c/few": (0.7, 0.7)}
    assert axes.get_xlim()[0] < 0.31 and "data/set" in axes.get_xlabel()


def test_the_sheet_shows_the_six_main_pictures_and_each_file_says_what_it_is(found, tmp_path):
    said = plots.draw_all(found, tmp_path)
    begins = {"roc": "ROC of each class", "pr": "Precision and recall", "confusion": "Confusion matrices",
              "reliability": "Reliability", "operating_points": "Sensitivity and specificity for Middle",
              "centers": "Each center", "decision_curve": "Decision curve for Middle"}
    assert all(said[f"{name}.png"].startswith(begin) for name, begin in begins.items()) and len(said) == len(begins)
    with Image.open(tmp_path / "results.png") as sheet:
        for place, name in enumerate([*begins][:6]):
            left, top = 20 + 1000 * (place % 3), 20 + 700 * (place // 3)
            with Image.open(tmp_path / f"{name}.png") as picture:
                whole = ImageOps.pad(picture.convert("RGB"), (960, 660), color="white")
            assert sheet.crop((left, top, left + 960, top + 660)).tobytes() == whole.tobytes(), name
