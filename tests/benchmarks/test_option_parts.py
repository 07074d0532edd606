"""The parts that train for centers that the model has not seen do what their names say.

Covers benchmarks/option_parts.py.
"""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from conftest import ARCH
from fastai.callback.core import Callback
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from option_parts import GroupDRO, MaskLoss, OtherBackground, contrast
from torch import nn

from busfast.data.split import Split
from busfast.models import make_learner
from busfast.pipelines import ImagePipeline, make_dls

CLASSES = ("normal", "benign", "malignant")


class Seen(Callback):
    """Keeps what `look` returns of itself after each training batch's images are ready, or after its loss."""

    run_valid = False

    def __init__(self, look, order, event="before_batch"):
        self.look, self.order, self.values = look, order, []
        setattr(self, event, lambda: self.values.append(self.look(self)))


def make(split: Split, size=64) -> Learner:
    dls = make_dls(split, ImagePipeline(size=size, rotate=20), classes=CLASSES, bs=16, loader="torchvision",
                   device="cpu")
    made = make_learner(dls, ARCH, weights="none", dropout=0, loss_func=CrossEntropyLossFlat())
    return made.remove_cbs([made.recorder, made.progress])


def plain(callback: Callback) -> torch.Tensor:
    return callback.x.as_subclass(torch.Tensor).clone()


def test_masks_are_turned_as_their_images_are(parts):
    rows = parts.rows[parts.rows["mask"] != ""]
    learn = make(replace(parts, rows=rows.assign(image=rows["mask"])))  # each image is its own mask
    masked, images = OtherBackground(learn), Seen(plain, -1)
    masks = Seen(lambda _: masked.lesions(), 1)
    learn.fit(1, cbs=[images, masked, masks])
    for pixels, lesions in zip(images.values, masks.values, strict=True):
        low, high = pixels.amin(), pixels.amax()
        assert torch.allclose((pixels[:, :1] - low) / (high - low), lesions, atol=0.1)  # OpenCV rounds places
    still = masked.masks[list(learn.dls.train.indices)]
    assert (masks.values[-1] - still).abs().amax() > 0.5  # they were turned


def test_half_of_the_lesions_get_the_background_of_an_image_without_one(parts):
    learn = make(parts)
    change = OtherBackground(learn)
    before, after = Seen(lambda self: (plain(self), self.y.as_subclass(torch.Tensor), change.lesions()), -1), \
        Seen(plain, 1)
    learn.fit(1, cbs=[before, change, after])
    moved, lesions = 0, 0
    for (old, labels, masks), new in zip(before.values, after.values, strict=True):
        changed = (old != new).flatten(1).any(1)
        assert not changed[labels == 0].any()
        lesions, moved = lesions + (labels > 0).sum(), moved + changed.sum()
        for image, source, mask in zip(new[changed], old[changed], masks[changed], strict=True):
            assert torch.allclose(image[:, mask[0] == 1], source[:, mask[0] == 1])
            far = F.max_pool2d(mask, 15, stride=1, padding=7)[0] == 0
            assert far.any() and any(torch.equal(image[:, far], other[:, far]) for other in old[labels == 0])
    assert 0.25 < moved / lesions < 0.75


def test_masks_add_the_loss_of_a_map_where_they_are_known_and_no_prediction_needs_it(parts):
    rows = parts.rows.assign(mask=parts.rows["mask"].where(parts.rows["label"] != "malignant", ""))
    learn = make(replace(parts, rows=rows))
    masked = MaskLoss(learn, weight=0.5)
    nn.init.zeros_(learn.model.lesion_map.weight)
    nn.init.constant_(learn.model.lesion_map.bias, 1.0)  # a map that is the same everywhere
    found = Seen(lambda self: (masked.lesions()[self.y != 2].mean(), self.loss_grad - self.loss), 1, "after_loss")
    learn.fit(1, lr=0.0, cbs=[masked, found])
    area, added = map(torch.stack, zip(*found.values, strict=True))
    assert torch.allclose(added, 0.5 * (math.log(1 + math.e) - area), atol=1e-5) and area.min() > 0
    learn.fit(1, cbs=masked)
    assert learn.model.lesion_map.weight.abs().sum() > 0  # it is trained
    logits = learn.get_preds(dl=learn.dls.valid)[0]
    del learn.model.lesion_map
    assert torch.equal(learn.get_preds(dl=learn.dls.valid)[0], logits)


def test_group_dro_weighs_the_center_with_the_higher_loss_more_and_forgets_none(parts):
    learn = make(replace(parts, rows=parts.rows[parts.rows["center"] != parts.rows["center"].max()]))  # two are left
    centers = learn.dls.train_ds.items["center"].to_numpy()
    first, second = (list((centers == name).nonzero()[0][:2]) for name in dict.fromkeys(centers))
    dro = GroupDRO(learn, step=1.0)
    logits = torch.tensor([[2.0, 0, 0]] * 2 + [[0, 2.0, 0]] * 2)  # right for the first center only
    dro.learn = SimpleNamespace(dl=SimpleNamespace(indices=(*first, *second)), pred=logits,
                                y=torch.zeros(4, dtype=torch.int64), loss_func=F.cross_entropy)
    losses = torch.stack([F.cross_entropy(logits[part], dro.learn.y[part]) for part in (slice(2), slice(2, 4))])
    dro.after_loss()
    expected = losses.exp() / losses.exp().sum()
    assert torch.allclose(dro.shares, expected) and dro.learn.loss_grad.item() == pytest.approx(
        (expected * losses).sum().item())
    dro.learn.dl.indices, dro.learn.pred, dro.learn.y = tuple(first), logits[:2], dro.learn.y[:2]
    dro.after_loss()  # the second center has no image in this batch
    assert (dro.shares > 0).all() and dro.shares.sum().item() == pytest.approx(1)
    assert dro.learn.loss_grad.item() == pytest.approx((dro.shares[0] * losses[0]).item())


def test_contrast_is_low_where_a_class_is_alike_at_all_centers():
    labels, centers = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    near = pytest.approx(math.log(1 + 2 * math.exp(-10)), rel=1e-3)  # two others at a right angle, a tenth the scale
    assert contrast(torch.eye(2)[labels], labels, centers).item() == near
    assert contrast(torch.eye(2)[centers], labels, centers) > 9
    # An image of the class at another center is the one to be near to, not one at the own; without any, that will do.
    features = torch.eye(3)[[0, 0, 1, 2]]
    assert contrast(features, torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 1, 0])) > 7
    assert contrast(features, torch.tensor([0, 0, 1, 2]), torch.zeros(4)).item() == near
    assert contrast(features[1:], torch.tensor([0, 1, 2]), torch.zeros(3)) == 0
