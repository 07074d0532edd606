"""Options of travel.py that change how images look, so that a model does not rely on how those of one center do."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from fastai.callback.core import Callback
from fastai.data.transforms import Normalize
from fastai.learner import Learner
from fastai.torch_core import TensorImage
from torchvision.transforms import v2

Change = Callable[[torch.Tensor], torch.Tensor]


class ChangeImages(Callback):
    """Changes normalized images, (N, C, H, W), of training batches.

    Args:
        change: images -> as many changed ones.
        share: the probability that an image is changed.
        everywhere: whether those of the other parts are changed, too.
    """

    def __init__(self, change: Change, share: float = 0.5, everywhere: bool = False):
        self.change, self.share, self.run_valid = change, share, everywhere

    def before_batch(self):
        images = self.x.as_subclass(torch.Tensor)
        drawn = _random(images) < self.share
        self.learn.xb = (TensorImage(torch.where(drawn, self.change(images), images)),)


def change_images(change: Change, pixels: bool = False, **how) -> Callable[[Learner], None]:
    """Returns what adds `ChangeImages` to a Learner; `pixels`: whether `change` is made for pixels in 0 to 1."""
    return lambda learn: learn.add_cb(ChangeImages(of_pixels(learn, change) if pixels else change, **how))


def of_pixels(learn: Learner, change: Change) -> Change:
    """Returns what does to normalized images what `change` does to pixels in 0 to 1."""
    normalize = next(step for step in learn.dls.train.after_batch.fs if isinstance(step, Normalize))
    mean, std = normalize.mean.as_subclass(torch.Tensor), normalize.std.as_subclass(torch.Tensor)
    return lambda images: (change((images * std + mean).clamp(0, 1)).clamp(0, 1) - mean) / std


def standardize(images: torch.Tensor) -> torch.Tensor:
    """Gives the values of each image, and of each of its channels, a mean of 0 and a standard deviation of 1."""
    std, mean = torch.std_mean(images, (2, 3), keepdim=True)
    return (images - mean) / std.clamp(min=1e-3)


def mix_histograms(images: torch.Tensor) -> torch.Tensor:
    """Mixes each image with itself, with the histogram of another image of the batch, in a random ratio."""
    values, order = images.flatten(2).sort(2)
    matched = torch.empty_like(values).scatter(2, order, values[torch.randperm(len(images))])
    return images.lerp(matched.view_as(images), _random(images))


def mix_amplitudes(pixels: torch.Tensor) -> torch.Tensor:
    """Mixes the amplitudes of each image's Fourier transform with those of another image of the batch, in a random
    ratio; the phases, which hold the shapes, stay.

    Source:
        Xu et al. 2021, "A Fourier-based framework for domain generalization" (arXiv 2105.11120), without their teacher.
    """
    waves = torch.fft.rfft2(pixels)
    amplitudes = waves.abs()
    mixed = amplitudes.lerp(amplitudes[torch.randperm(len(pixels))], _random(pixels))
    return torch.fft.irfft2(torch.polar(mixed, waves.angle()), pixels.shape[2:])


def convolve_randomly(images: torch.Tensor) -> torch.Tensor:
    """Mixes each image with itself, convolved by random weights, of 1 x 1 to 7 x 7, in a random ratio.

    Source:
        Xu et al. 2021, "Robust and generalizable visual representation learning via random convolutions" (arXiv
        2007.13003), without their consistency loss.
    """
    side = 2 * int(torch.randint(4, ())) + 1
    weights = torch.randn(3, 3, side, side, device=images.device) / (3 * side * side) ** 0.5
    return images.lerp(F.conv2d(images, weights, padding=side // 2), _random(images))


def change_device(pixels: torch.Tensor) -> torch.Tensor:
    """Changes brightness and contrast by up to 40%, blurs half of the images, and compresses half of them as JPEG of
    quality 30 to 95."""
    change = v2.Compose([v2.ColorJitter(0.4, 0.4), v2.RandomApply([v2.GaussianBlur(5, (0.1, 2.0))]),
                         v2.RandomApply([v2.JPEG((30, 95))])])
    return torch.stack([change(image) for image in (pixels * 255).round().byte()]) / 255


def _random(images: torch.Tensor) -> torch.Tensor:
    return torch.rand(len(images), 1, 1, 1, device=images.device)


def mix_styles(learn: Learner, alpha: float = 0.1) -> None:
    """Gives half of the training images' features, a quarter and an eighth of the images' size, mean and standard
    deviation mixed with those of another image of the batch.

    Source:
        Zhou et al. 2021, "Domain generalization with MixStyle" (arXiv 2104.02008), with their alpha.
    """
    ratio = torch.distributions.Beta(alpha, alpha)

    def mix(_, __, features: torch.Tensor) -> torch.Tensor:
        if not learn.model.training:
            return features
        std, mean = torch.std_mean(features.detach(), (2, 3), keepdim=True)
        std, order = std + 1e-6, torch.randperm(len(features))
        share = torch.where(torch.rand(len(features)) < 0.5, ratio.sample((len(features),)), 1.0)
        share = share[:, None, None, None].to(features.device)
        return (features - mean) / std * std[order].lerp(std, share) + mean[order].lerp(mean, share)

    for info in learn.model.feature_info:
        if info["reduction"] in (4, 8):
            learn.model.get_submodule(info["module"]).register_forward_hook(mix)
