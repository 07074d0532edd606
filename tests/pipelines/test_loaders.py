"""DALI and torchvision carry out the same image pipeline."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from busfast.errors import UserError
from busfast.pipelines.image import ImagePipeline, request
from busfast.pipelines.loaders import LOADERS, choose_device, choose_loader

CPU = torch.device("cpu")
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255,) * 3}  # so that results are pixel values, 0 to 255
DATA = Path(os.environ.get("BUSFAST_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))


def pixels(loader, images, *, rng=None, threads=2, bs=8, device=CPU, **pipeline):
    spec = ImagePipeline(**(PLAIN | pipeline))
    requests = [request(spec, images[start:start + bs], rng) for start in range(0, len(images), bs)]
    return torch.cat([batch.cpu() for batch in LOADERS[loader](spec, bs, device, threads).batches(requests)])


@pytest.fixture
def dali():
    pytest.importorskip("nvidia.dali")


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
@pytest.mark.parametrize("channels", ["rgb", "gray"])
def test_validation_pixels_of_the_loaders_agree_on_files_of_every_kind(dali, odd_images, resize, channels):
    names, paths = list(odd_images), list(odd_images.values())
    ours, reference = (pixels(name, paths, size=96, resize=resize, channels=channels)
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
def test_a_loader_gives_normalised_channels_last_batches_in_order_with_a_short_last_one(loader, odd_images):
    if loader == "dali":
        pytest.importorskip("nvidia.dali")
    paths = list(odd_images.values())[:7]
    spec = ImagePipeline(size=32, mean=(0.2, 0.4, 0.6), std=(0.1, 0.2, 0.3))
    requests = [request(spec, paths[start:start + 3], None) for start in (0, 3, 6)]
    batches = list(LOADERS[loader](spec, 3, CPU, 2).batches(requests))
    assert [tuple(batch.shape) for batch in batches] == [(3, 3, 32, 32), (3, 3, 32, 32), (1, 3, 32, 32)]
    assert all(batch.is_contiguous(memory_format=torch.channels_last) for batch in batches)
    raw = torch.cat([pixels(loader, [path], size=32) for path in paths])
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) * 255 for value in (spec.mean, spec.std))
    assert torch.allclose(torch.cat(batches), (raw - mean) / std, atol=1e-4)


@pytest.mark.parametrize("loader", LOADERS)
def test_pixels_do_not_depend_on_the_number_of_threads(loader, odd_images):
    if loader == "dali":
        pytest.importorskip("nvidia.dali")
    one, three = (pixels(loader, list(odd_images.values()), size=48, rng=np.random.default_rng(1), threads=threads)
                  for threads in (1, 3))
    assert torch.equal(one, three)


def test_a_pass_left_in_the_middle_does_not_disturb_the_next(dali, odd_images):
    spec = ImagePipeline(size=32, **PLAIN)
    requests = [request(spec, [path], None) for path in odd_images.values()]
    loader = LOADERS["dali"](spec, 1, CPU, 2)
    whole = list(loader.batches(requests))
    left = loader.batches(requests)
    next(left), next(left)
    again = list(loader.batches(requests))  # while the other pass is still open
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))
    assert torch.equal(next(left), whole[2])


def test_in_memory_images_are_taken_as_files_are(dali, odd_images):
    from PIL import Image
    path = odd_images["rgb.png"]
    image = Image.open(path)
    forms = [path, str(path), path.read_bytes(), image, np.asarray(image)]
    for loader in LOADERS:
        out = pixels(loader, forms, size=40)
        assert all(torch.equal(out[0], one) for one in out[1:])


def test_an_unknown_loader_or_device_names_the_choices():
    with pytest.raises(UserError, match="Unknown loader 'dalli'. Did you mean 'dali'"):
        choose_loader("dalli")
    with pytest.raises(UserError, match="Unknown device 'gpu'.*auto, cuda, mps, cpu"):
        choose_device("gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_a_device_that_is_not_there_is_refused_with_the_way_out():
    with pytest.raises(UserError, match="finds no CUDA here. Use --device=.*cpu"):
        choose_device("cuda")


def test_without_dali_auto_takes_torchvision_and_asking_for_dali_names_the_pip_command():
    code = """
import sys
class NoDali:
    def find_spec(self, name, path=None, target=None):
        if name == "nvidia.dali" or name.startswith("nvidia.dali."):
            raise ModuleNotFoundError(f"No module named {name!r}")
sys.meta_path.insert(0, NoDali())
from busfast.errors import UserError
from busfast.pipelines.loaders import choose_loader
print(choose_loader("auto"))
try:
    choose_loader("dali")
except UserError as error:
    print(error)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "('torchvision', 'DALI is not installed')" in out
    assert "pip install nvidia-dali-cuda130" in out


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")
def test_validation_pixels_on_the_gpu_agree(dali, odd_images):
    paths = list(odd_images.values())
    on_gpu = pixels("dali", paths, size=96, device=torch.device("cuda", 0))
    assert (on_gpu - pixels("torchvision", paths, size=96)).abs().mean(dim=(1, 2, 3)).max() < 1
