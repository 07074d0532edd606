"""The curves of a run show the columns of its log."""

import pandas as pd
import pytest

from busfast.training import curves
from busfast.training.curves import draw_curves, draw_losses

LOG = {"epoch": [1, 2, 3], "train_loss": [0.9, 0.5, 0.2], "val_loss": [1.4, 0.8, 1.1], "recall_odd": [0.1, 0.6, 0.5],
       "recall_even": [0.9, 0.7, 0.8], "lr": [3e-4, 2e-4, 1e-5]}


def lines(axes):
    """Label -> values of each curve; the mark of the best epoch is none."""
    return {line.get_label(): list(line.get_ydata()) for line in axes.lines if len(line.get_xdata()) == 3}


def test_losses_of_two_kinds_are_on_two_axes_with_the_lowest_validation_loss_marked():
    left, right = draw_losses(pd.DataFrame(LOG), "a run").axes
    assert [list(*lines(axes).values()) for axes in (left, right)] == [LOG["train_loss"], LOG["val_loss"]]
    assert "with class weights" in left.get_ylabel() and "without class weights" in right.get_ylabel()
    assert [text.get_text() for text in right.texts] == ["lowest: 0.800"] and right.texts[0].xy[0] == 2
    assert not left.texts


@pytest.mark.parametrize("values", [[float("nan")] * 3, LOG["val_loss"]])
def test_the_other_curves_show_the_recall_of_each_class_in_order_and_the_learning_rate(values, tmp_path, monkeypatch):
    figures = {}
    monkeypatch.setattr(curves, "save_figure", lambda figure, path: figures.update({path.name: figure}))
    pd.DataFrame(LOG | {"val_loss": values}).to_csv(tmp_path / "training_log.csv", index=False)
    draw_curves(tmp_path, "a run")
    assert list(figures) == ["loss_curve.png", "recall_curve.png", "lr_curve.png"]
    recall, lr = (figures[f"{name}_curve.png"].axes[0] for name in ("recall", "lr"))
    assert list(lines(recall).items()) == [("odd", LOG["recall_odd"]), ("even", LOG["recall_even"])]
    assert [text.get_text() for text in recall.get_legend().get_texts()] == ["odd", "even"]
    assert list(*lines(lr).values()) == LOG["lr"]
