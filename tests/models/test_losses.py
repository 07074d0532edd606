"""Each loss is what its name says, and its predictions are probabilities."""

import pytest
import torch
import torch.nn.functional as F

from busfast.errors import UserError
from busfast.models.losses import class_weights, make_loss, mean_logits
from busfast.pipelines import config

LOGITS, TARGETS = torch.randn(6, 3, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 1, 0, 2])
WEIGHT = torch.tensor([0.5, 1.0, 2.0])


def test_class_weights_are_those_of_the_experiment():
    labels = ["normal"] * 1315 + ["benign"] * 1066 + ["malignant"] * 240
    expected = [2621 / (3 * count) for count in (1315, 1066, 240)]
    assert class_weights(labels, ("normal", "benign", "malignant")).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(("name", "expected"), [
    ("auto", F.cross_entropy(LOGITS, TARGETS, weight=WEIGHT, label_smoothing=0.1)),
    ("weighted", F.cross_entropy(LOGITS, TARGETS, weight=WEIGHT, label_smoothing=0.1)),
    ("cross_entropy", F.cross_entropy(LOGITS, TARGETS, label_smoothing=0.1)),
])
def test_cross_entropy_has_class_weights_and_smoothing_as_asked(name, expected):
    assert make_loss(name, WEIGHT, 0.1)(LOGITS, TARGETS).item() == pytest.approx(expected.item())


def test_focal_loss_is_that_of_lin_et_al():
    p = LOGITS.softmax(1)[torch.arange(6), TARGETS]
    assert make_loss("focal", WEIGHT)(LOGITS, TARGETS).item() == pytest.approx((-(1 - p) ** 2 * p.log()).mean().item())


def test_bce_is_that_of_each_class_against_the_rest():
    loss = make_loss("bce", WEIGHT)
    each = F.binary_cross_entropy_with_logits(LOGITS, F.one_hot(TARGETS, 3).float(), reduction="none").sum(1)
    assert loss(LOGITS, TARGETS).item() == pytest.approx(each.mean().item())
    loss.reduction = "none"  # as mixup sets it
    assert torch.allclose(loss(LOGITS, TARGETS), each)
    assert torch.allclose(loss.activation(LOGITS).sum(1), torch.ones(6))
    assert loss.decodes(LOGITS).equal(LOGITS.argmax(1))


def test_several_labels_have_binary_cross_entropy():
    targets = torch.tensor([[1.0, 0, 1], [0, 0, 0]])
    expected = F.binary_cross_entropy_with_logits(LOGITS[:2], targets)
    assert make_loss("auto", None)(LOGITS[:2], targets).item() == pytest.approx(expected.item())


def test_the_settings_names_are_those_that_are_made():
    for name in config.LOSSES:
        make_loss(name, WEIGHT)
    with pytest.raises(UserError, match="Unknown loss 'focall'. Did you mean 'focal'"):
        make_loss("focall", WEIGHT)


def test_the_mean_of_logits_has_the_mean_probabilities():
    other = LOGITS.flip(1)
    single, several = mean_logits([LOGITS, other], False), mean_logits([LOGITS, other], True)
    assert torch.allclose(single.softmax(1), (LOGITS.softmax(1) + other.softmax(1)) / 2, atol=1e-6)
    assert torch.allclose(several.sigmoid(), (LOGITS.sigmoid() + other.sigmoid()) / 2, atol=1e-6)
