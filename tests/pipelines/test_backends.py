"""DALI and torchvision carry out the same image pipeline.

Covers busfast/pipelines/dali_loader.py, busfast/pipelines/torchvision_loader.py, busfast/pipelines/augment.py and
busfast/pipelines/image.py, too.
"""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from busfast.data.images import load_pixels
from busfast.errors import UserError
from busfast.pipelines.augment import _grid, affine_matrices, augment_and_normalize, collate
from busfast.pipelines.backends import LOADERS, choose_loader
from busfast.pipelines.image import Augmentation, ImagePipeline, sample_augmentation
from busfast.pipelines.opencv import opencv

CPU = torch.device("cpu")
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255,) * 3}  # so that results are pixel values, 0 to 255
DATA = Path(os.environ.get("BUSFAST_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))


def pixels(loader, images, *, rng=None, threads=2, bs=8, device=CPU, exact=True, **pipeline):
    spec = ImagePipeline(**(PLAIN | pipeline))
    sources = [images[start:start + bs] for start in range(0, len(images), bs)]
    return torch.cat([augment_and_normalize(batch, spec, affine_matrices(
        sample_augmentation(spec, len(batch), rng), *spec.sides) if rng else None).cpu()
                      for batch in LOADERS[loader](spec, bs, device, threads, exact).batches(sources)])


@pytest.fixture
def dali():
    pytest.importorskip("nvidia.dali")


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
@pytest.mark.parametrize(("channels", "width"), [("rgb", 0), ("gray", 0), ("rgb", 160)])
def test_validation_pixels_of_the_loaders_agree_on_files_of_every_kind(dali, odd_images, resize, channels, width):
    names, paths = list(odd_images), list(odd_images.values())
    ours, reference = (pixels(name, paths, size=96, width=width, resize=resize, channels=channels)
                       for name in ("dali", "torchvision"))
    apart = (ours - reference).abs().mean(dim=(1, 2, 3))
    assert apart.max() < 1, {name: float(value) for name, value in zip(names, apart, strict=True) if value >= 1}
    assert reference.std(dim=(1, 2, 3)).min() > 5  # pictures, not blanks


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no real images: {DATA} (BUSFAST_TEST_DATA) is not there")
def test_validation_pixels_of_the_loaders_agree_on_real_images(dali):
    paths = [path for path in sorted(DATA.rglob("*.*"))[::60] if path.suffix in (".jpg", ".jpeg", ".png")][:60]
    apart = (pixels("dali", paths, size=224) - pixels("torchvision", paths, size=224)).abs().mean(dim=(1, 2, 3))
    assert len(paths) > 20
    assert apart.max() < 1


def test_augmented_pixels_of_the_loaders_agree_too(dali, odd_images):
    paths = list(odd_images.values())
    ours, reference = (pixels(name, paths, size=96, rng=np.random.default_rng(5), vflip=0.5)
                       for name in ("dali", "torchvision"))
    plain = pixels("torchvision", paths, size=96)
    assert (ours - reference).abs().mean() < 1
    assert (reference - plain).abs().mean() > 10  # something was done to them


@pytest.mark.parametrize("loader", LOADERS)
def test_a_loader_gives_fitted_batches_in_order_with_a_short_last_one_and_gray_in_one_channel(loader, odd_images):
    if loader == "dali":
        pytest.importorskip("nvidia.dali")
    names = ["gray.png", "gray.jpg", "rgb.png", "gray.bmp", "rgb.jpg", "rotated.jpg", "gray.png"]
    paths = [odd_images[name] for name in names]
    sources = [paths[start:start + 3] for start in (0, 3, 6)]
    batches = list(LOADERS[loader](ImagePipeline(size=32), 3, CPU, 2).batches(sources))
    assert [tuple(batch.shape) for batch in batches] == [(3, 32, 32, 3), (3, 32, 32, 3), (1, 32, 32, 1)]
    for path, one in zip(paths, (one for batch in batches for one in batch), strict=True):
        apart = one.int() - torch.tensor(load_pixels(path, 32)).int()  # one channel fits three
        assert one.dtype == torch.uint8 and apart.abs().float().mean() < 1


def test_a_batch_is_finished_normalised_and_channels_last_whether_gray_or_color():
    spec = ImagePipeline(size=5, mean=(0.2, 0.4, 0.6), std=(0.1, 0.2, 0.3))
    gray = torch.randint(0, 256, (4, 5, 5, 1), dtype=torch.uint8)
    done = augment_and_normalize(gray, spec)
    assert done.shape == (4, 3, 5, 5) and done.is_contiguous(memory_format=torch.channels_last)
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (spec.mean, spec.std))
    assert torch.allclose(done, (gray.permute(0, 3, 1, 2) / 255 - mean) / std, atol=1e-5)
    assert torch.equal(done, augment_and_normalize(gray.repeat(1, 1, 1, 3), spec))


@pytest.mark.parametrize(("hflip", "vflip", "angle"), [(True, False, 0), (False, True, 0), (True, True, 0),
                                                       (False, False, 10), (True, False, -14), (True, True, 7)])
@pytest.mark.parametrize("size", [(97, 97), (130, 80)])
def test_a_batch_is_moved_as_pillow_moves_an_image(odd_images, hflip, vflip, angle, size):
    image = Image.open(odd_images["rgb.png"]).resize(size)
    augmentation = Augmentation(np.array([hflip]), np.array([vflip]), np.array([angle], np.float32))
    batch = collate([np.asarray(image)])
    matrices = affine_matrices(augmentation, *batch.shape[1:3])
    moved = augment_and_normalize(batch, ImagePipeline(**PLAIN), matrices)[0].permute(1, 2, 0)
    image = ImageOps.mirror(image) if hflip else image
    image = ImageOps.flip(image) if vflip else image
    expected = np.asarray(image.rotate(angle, Image.Resampling.BILINEAR)).astype(float)
    inside = np.asarray(Image.new("L", image.size, 255).rotate(angle)) > 0  # Pillow cuts its border off sharply
    assert np.abs(moved.numpy() - expected)[inside].mean() < (1 if angle else 1e-3)
    assert np.abs(np.asarray(image).astype(float) - np.asarray(image)[:, ::-1]).mean() > 20  # a flip would show


def test_the_grid_is_that_of_torch():
    matrices = torch.randn(3, 2, 2)
    expected = torch.nn.functional.affine_grid(torch.nn.functional.pad(matrices, (0, 1)), [3, 1, 6, 9],
                                               align_corners=False)
    assert torch.allclose(_grid(matrices, 6, 9), expected, atol=1e-6)


@pytest.mark.parametrize("loader", LOADERS)
def test_a_large_jpeg_may_be_read_at_a_part_of_its_size_within_the_tolerance(loader, tmp_path):
    if loader == "dali":
        pytest.importorskip("nvidia.dali")
    y, x = np.mgrid[0:900, 0:1100]
    noise = np.random.default_rng(0).normal(0, 6, x.shape)
    large = (120 + 70 * np.sin(x / 41) * np.cos(y / 53) + noise).clip(0, 255).astype(np.uint8)
    path = tmp_path / "large.jpg"
    Image.fromarray(large).save(path, quality=90)
    exact, near = (pixels(loader, [path], size=96, exact=exact) for exact in (True, False))
    assert 0 < (exact - near).abs().mean() < 1
    Image.fromarray(large[:190, :190]).save(path, quality=90)  # less than twice as long as `size`
    assert torch.equal(*(pixels(loader, [path], size=96, exact=exact) for exact in (True, False)))


@pytest.mark.parametrize("loader", LOADERS)
def test_pixels_do_not_depend_on_the_number_of_threads(loader, odd_images):
    if loader == "dali":
        pytest.importorskip("nvidia.dali")
    one, three = (pixels(loader, list(odd_images.values()), size=48, rng=np.random.default_rng(1), threads=threads)
                  for threads in (1, 3))
    assert torch.equal(one, three)


@pytest.mark.parametrize("gray", [True, False])
@pytest.mark.parametrize("batches", [1, 2, 5])
def test_bare_dali_gives_the_same_batches_from_files_and_from_fitted_pixels(dali, odd_images, gray, batches):
    from busfast.pipelines.dali_loader import raw_batches

    paths = [odd_images[name] for name in (["gray.png", "gray.jpg"] if gray else ["rgb.png", "rgb.jpg"])] * batches
    spec = ImagePipeline(size=48, hflip=0, rotate=0, **PLAIN)
    expected = pixels("torchvision", paths, size=48)
    for read in (lambda path: np.fromfile(path, np.uint8), lambda path: load_pixels(path, 48)):
        feeds = ([read(path) for path in paths[start:start + 2]] for start in range(0, len(paths), 2))
        out = torch.cat([batch.clone() for batch in raw_batches(feeds, spec, 2, 2)])
        assert out.shape == expected.shape and (out - expected).abs().mean(dim=(1, 2, 3)).max() < 1


def test_a_pass_left_in_the_middle_does_not_disturb_the_next(dali, odd_images):
    spec = ImagePipeline(size=32, **PLAIN)
    requests = [[path] for path in odd_images.values()]
    loader = LOADERS["dali"](spec, 1, CPU, 2)
    whole = list(loader.batches(requests))
    left = loader.batches(requests)
    next(left), next(left)
    again = list(loader.batches(requests))  # while the other pass is still open
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))
    assert torch.equal(next(left), whole[2])


def test_in_memory_images_are_taken_as_files_are(dali, odd_images):
    path = odd_images["rgb.png"]
    image = Image.open(path)
    forms = [path, str(path), path.read_bytes(), image, np.asarray(image)]
    for loader in LOADERS:
        out = pixels(loader, forms, size=40)
        assert all(torch.equal(out[0], one) for one in out[1:])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mean", [(0.5, 0.5, 0.5), (0.4, 0.5, 0.6)])
def test_opencv_and_torch_augment_alike(monkeypatch, channels, mean):
    if opencv() is None:
        pytest.skip("OpenCV is not installed")
    rng, image = np.random.default_rng(3), ImagePipeline(mean=mean, std=(0.5, 0.5, 0.5), vflip=0.5, rotate=30)
    pixels = torch.from_numpy(rng.integers(0, 256, (12, 50, 70, channels), np.uint8))
    matrices, made = affine_matrices(sample_augmentation(image, 12, rng), 50, 70), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        made.append(augment_and_normalize(pixels, image, matrices))
    torch.set_num_threads(1)
    assert torch.equal(*made)
    monkeypatch.setattr("busfast.pipelines.augment.opencv", lambda: None)
    expected = augment_and_normalize(pixels, image, matrices)
    assert expected.stride() == made[0].stride()
    torch.testing.assert_close(made[0], expected, atol=5e-4, rtol=0)


def test_an_unknown_loader_names_the_choices():
    with pytest.raises(UserError, match="Unknown loader 'dalli'. Did you mean 'dali'"):
        choose_loader("dalli")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_dali_that_cannot_use_the_gpu_is_replaced_or_refused_before_any_image_is_read(dali):
    gpu = torch.device("cuda", 0)
    loader, reason = choose_loader("auto", gpu)
    assert loader == "torchvision" and "DALI cannot use this GPU" in reason
    with pytest.raises(UserError, match="DALI cannot use this GPU .*--loader=torchvision"):
        choose_loader("dali", gpu)


def test_batches_of_dali_stay_what_they_are_while_the_next_ones_are_made(dali, odd_images):
    batches = [[path] * 4 for path in odd_images.values()]
    made = list(LOADERS["dali"](ImagePipeline(size=64), 4, CPU, 2, True).batches(batches))
    again = LOADERS["dali"](ImagePipeline(size=64), 4, CPU, 2, True)
    assert all(torch.equal(one, batch) for one, batch in zip(made, again.batches(batches), strict=True))


class NoDali:
    """An import system in which DALI is not installed."""

    def find_spec(self, name, path=None, target=None):
        if f"{name}.".startswith("nvidia.dali."):
            raise ModuleNotFoundError(f"No module named {name!r}")


def test_without_dali_auto_takes_torchvision_and_asking_for_dali_names_the_pip_command(monkeypatch):
    for name in [name for name in sys.modules if f"{name}.".startswith(("nvidia.dali.", "busfast.pipelines.dali_"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [NoDali(), *sys.meta_path])
    assert choose_loader("auto") == ("torchvision", "DALI is not installed")
    with pytest.raises(UserError, match="pip install nvidia-dali-cuda130"):
        choose_loader("dali")
