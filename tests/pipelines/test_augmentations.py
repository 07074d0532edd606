"""What augmentation each name stands for, and that each image is changed in its own way."""

import random

import pytest
import torch
from fastai.data.transforms import IntToFloatTensor
from fastai.torch_core import TensorImage

from busfast.errors import UserError
from busfast.pipelines import ImagePipeline
from busfast.pipelines.augmentations import named_augmentation
from busfast.pipelines.batch_tfms import BatchPipeline, make_normalize
from busfast.pipelines.config import AUGMENTATIONS, Config

OWN = ImagePipeline(size=64, hflip=0.5, vflip=0.25, rotate=20)
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


def names_of(steps):
    return [step.name.partition(" -- ")[0] for step in steps]


def test_none_and_light_are_busfasts_own_augmentation():
    none, steps = named_augmentation(("none",), OWN)
    assert (none.hflip, none.vflip, none.rotate, steps) == (0, 0, 0, [])
    assert named_augmentation(("light",), OWN) == (OWN, [])
    flips, steps = named_augmentation(("flip",), OWN)
    assert (flips.hflip, flips.vflip, flips.rotate, steps) == (0.5, 0.25, 0, [])


def test_standard_and_strong_are_fastais_transforms_and_leave_nothing_to_do_twice():
    for level in ("standard", "strong"):
        image, steps = named_augmentation((level,), OWN)
        assert (image.hflip, image.vflip, image.rotate) == (0, 0, 0)
        assert len(steps) == {"standard": 2, "strong": 4}[level]
    assert set(AUGMENTATIONS["standard"]) - set(AUGMENTATIONS["light"]) == {"zoom", "brightness", "contrast"}
    assert set(AUGMENTATIONS["strong"]) - set(AUGMENTATIONS["standard"]) == {"crop", "erase", "blur"}


def ramp(count, side=64):
    """Images whose red grows to the right, green downwards; blue is 128."""
    line = torch.linspace(0, 255, side).round().byte()
    image = torch.stack([line.expand(side, side), line[:, None].expand(side, side), torch.full((side, side), 128)])
    return TensorImage(image.expand(count, -1, -1, -1).contiguous())


def augmented(names, count=64, image=OWN, split_idx=0):
    torch.manual_seed(3)
    random.seed(3)
    _, steps = named_augmentation(names, image)
    pipeline = BatchPipeline([IntToFloatTensor(), *steps, make_normalize(MEAN, STD)])
    pipeline.split_idx = split_idx
    made, label = pipeline((ramp(count), torch.arange(count)))
    assert label.equal(torch.arange(count)) and made.shape == (count, 3, 64, 64) and made.dtype == torch.float32
    return made.as_subclass(torch.Tensor) * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]


def test_a_crop_shows_a_random_part_of_at_least_a_third_of_the_image_and_nothing_outside():
    made = augmented(("crop",), 400, ImagePipeline(size=64, hflip=0, rotate=0))
    width = made[:, 0, 32, -1] - made[:, 0, 32, 0]
    height = made[:, 1, -1, 32] - made[:, 1, 0, 32]
    area = width * height
    assert (area > 0.3).all() and area.mean() == pytest.approx(0.65, abs=0.05)
    assert len({round(value, 3) for value in width.tolist()}) > 100  # each image has its own
    assert made[:, 2].sub(128 / 255).abs().max() < 0.02  # no border is seen


def test_flips_and_rotation_have_the_strength_of_the_settings():
    made = augmented(("flip", "zoom"), 2000, ImagePipeline(size=64, hflip=0.3, vflip=0.1, rotate=0))
    assert (made[:, 0, 32, -5] < made[:, 0, 32, 4]).float().mean() == pytest.approx(0.3, abs=0.04)
    assert (made[:, 1, -5, 32] < made[:, 1, 4, 32]).float().mean() == pytest.approx(0.1, abs=0.03)
    never = augmented(("strong",), 500, ImagePipeline(size=64, hflip=0, vflip=0, rotate=0))
    assert (never[:, 0, 32, -5] > never[:, 0, 32, 4]).float().mean() > 0.9  # but for what is erased
    turned = augmented(("rotate", "brightness"), 500, ImagePipeline(size=64, hflip=0, rotate=20))
    angle = torch.rad2deg(torch.atan2(turned[:, 0, 40, 32] - turned[:, 0, 24, 32],
                                      turned[:, 1, 40, 32] - turned[:, 1, 24, 32]))
    assert 15 < angle.abs().max() < 23 and angle.std() == pytest.approx(20 / 3**0.5, abs=1.5)


def test_a_rotation_does_not_shear_what_is_not_square():
    _, steps = named_augmentation(("rotate", "brightness"), ImagePipeline(size=40, width=80, hflip=0, rotate=30))
    turn, = steps[:1]
    turn.before_call(TensorImage(torch.zeros(200, 3, 40, 80)), split_idx=0)
    linear = turn.mat.as_subclass(torch.Tensor)[:, :2, :2]
    to_pixels = torch.diag(torch.tensor([40.0, 20.0]))  # half of width and height
    rotation = to_pixels @ linear @ to_pixels.inverse()
    assert torch.allclose(rotation @ rotation.transpose(1, 2), torch.eye(2).expand(200, 2, 2), atol=1e-5)
    angle = torch.rad2deg(torch.atan2(rotation[:, 1, 0], rotation[:, 0, 0]))
    assert 25 < angle.max() < 30.1 and -30.1 < angle.min() < -25


def test_erasing_and_blur_change_some_images_each_by_itself():
    plain, erased = augmented(("zoom",)), augmented(("zoom", "erase"))
    changed = (plain - erased).abs().flatten(1).amax(1) > 1e-6
    assert 5 <= changed.sum() <= 30  # of 64, p = .25
    boxes = {tuple((plain[index] != erased[index]).any(0).nonzero()[0].tolist()) for index in changed.nonzero()[:, 0]}
    assert len(boxes) > changed.sum() / 2
    blurred = (plain - augmented(("zoom", "blur"))).abs().flatten(1).amax(1) > 1e-6
    assert 1 <= blurred.sum() <= 16  # p = .1


@pytest.mark.parametrize("level", list(AUGMENTATIONS))
def test_validation_is_not_augmented(level):
    made = augmented((level,), 2, split_idx=1)
    assert (made - ramp(2) / 255).abs().max() < 1e-6


def test_the_setting_takes_a_level_or_parts():
    assert Config().augment == ("light",) and Config(augment="flip, erase").augment == ("flip", "erase")
    for wrong, message in {"strong,flip": "'strong' is a whole level", "flipp": "Unknown augment 'flipp'. Did you mean"
                           }.items():
        with pytest.raises(UserError, match=message):
            Config(augment=wrong)
