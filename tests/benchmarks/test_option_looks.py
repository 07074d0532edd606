"""What changes how images look changes just that.

Covers benchmarks/option_looks.py.
"""

from types import SimpleNamespace

import pytest
import torch
from fastai.data.transforms import Normalize
from option_looks import (
    ChangeImages,
    change_device,
    change_images,
    convolve_randomly,
    mix_amplitudes,
    mix_histograms,
    mix_styles,
    standardize,
)
from torch import nn


@pytest.fixture
def pixels() -> torch.Tensor:
    torch.manual_seed(0)
    scales = torch.linspace(0.2, 1, 6)[:, None, None, None]  # each image has a contrast of its own
    return torch.rand(6, 3, 16, 16) * scales


def changed(images: torch.Tensor, **how) -> torch.Tensor:
    callback = ChangeImages(lambda given: given + 1, **how)
    callback.learn = SimpleNamespace(xb=(images,), x=images)
    callback.before_batch()
    assert callback.learn.xb[0].shape == images.shape
    return (callback.learn.xb[0].as_subclass(torch.Tensor) - images).flatten(1)


def test_a_share_of_the_images_is_changed_each_as_a_whole():
    torch.manual_seed(0)
    more = changed(torch.zeros(200, 3, 4, 4))
    assert ((more == 0).all(1) | (more == 1).all(1)).all() and 70 < more[:, 0].sum() < 130
    assert (changed(torch.zeros(50, 3, 4, 4), share=1) == 1).all()
    assert not ChangeImages(standardize).run_valid and ChangeImages(standardize, everywhere=True).run_valid


def test_what_is_made_for_pixels_gets_pixels(pixels):
    added = []
    learn = SimpleNamespace(add_cb=added.append, dls=SimpleNamespace(train=SimpleNamespace(after_batch=SimpleNamespace(
        fs=[Normalize.from_stats((0.4, 0.5, 0.6), (0.2, 0.25, 0.3), cuda=False)]))))
    mean, std = (torch.tensor(values)[:, None, None] for values in ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3)))
    seen = []
    change_images(lambda given: seen.append(given) or 1 - given, pixels=True, share=1)(learn)
    images = added[0].change((pixels - mean) / std)
    assert torch.allclose(seen[0], pixels, atol=1e-6) and torch.allclose(images * std + mean, 1 - pixels, atol=1e-6)
    assert added[0].share == 1


def test_standardized_images_have_one_mean_and_deviation(pixels):
    std, mean = torch.std_mean(standardize(pixels), (2, 3))
    assert torch.allclose(mean, torch.zeros(6, 3), atol=1e-5) and torch.allclose(std, torch.ones(6, 3), atol=1e-5)


def test_mixed_histograms_keep_the_order_of_an_image_s_values(pixels):
    mixed = mix_histograms(pixels)
    assert not torch.allclose(mixed, pixels)
    order = pixels.flatten(2).argsort(2)
    assert (mixed.flatten(2).gather(2, order).diff(dim=2) >= 0).all()
    assert torch.allclose(mix_histograms(pixels[:1]), pixels[:1])  # with itself
    torch.manual_seed(3)
    maxima, own = mix_histograms(pixels).amax((1, 2, 3)), pixels.amax((1, 2, 3))
    assert (maxima >= own.min() - 1e-6).all() and (maxima <= own.max() + 1e-6).all()


def test_mixed_amplitudes_leave_phases(pixels):
    mixed = mix_amplitudes(pixels)
    assert not torch.allclose(mixed, pixels, atol=0.01)
    before, after = torch.fft.rfft2(pixels), torch.fft.rfft2(mixed)
    assert torch.allclose((before.conj() * after).angle().abs(), torch.zeros(()), atol=0.01)
    assert torch.allclose(mix_amplitudes(pixels[:1]), pixels[:1], atol=1e-5)


def test_random_convolutions_change_textures_and_keep_flat_images_flat(pixels):
    assert not torch.allclose(convolve_randomly(pixels), pixels, atol=0.1)
    inner = convolve_randomly(torch.ones(2, 3, 16, 16))[..., 3:-3, 3:-3]  # at the edges are zeros
    assert torch.allclose(inner, inner[..., :1, :1], atol=1e-5)


def test_a_changed_device_gives_pixels_of_the_same_picture():
    ramp = torch.linspace(0, 1, 32).expand(8, 3, 32, 32)
    torch.manual_seed(0)
    seen = change_device(ramp)
    assert seen.shape == ramp.shape and seen.min() >= 0 and seen.max() <= 1
    assert len({tuple(image.flatten().tolist()) for image in seen}) == 8
    assert (seen[..., -4:].mean((1, 2, 3)) > seen[..., :4].mean((1, 2, 3))).all()


def test_mixed_styles_are_means_and_deviations_between_those_of_two_images(pixels):
    model = nn.Sequential(nn.Identity(), nn.Identity())
    model.feature_info = [{"reduction": 2, "module": "0"}, {"reduction": 8, "module": "1"}]
    mix_styles(SimpleNamespace(model=model), alpha=1.0)
    assert torch.equal(model.eval()(pixels), pixels)
    torch.manual_seed(0)
    mixed = model.train()(pixels)
    std, mean = torch.std_mean(pixels, (2, 3))
    new_std, new_mean = torch.std_mean(mixed, (2, 3))
    assert torch.allclose((mixed - new_mean[..., None, None]) / new_std[..., None, None],
                          (pixels - mean[..., None, None]) / std[..., None, None], atol=1e-3)
    moved = (new_mean - mean).abs().amax(1) > 1e-4
    assert 0 < moved.sum() < 6
    assert (new_mean >= mean.amin(0) - 1e-5).all() and (new_mean <= mean.amax(0) + 1e-5).all()
