"""An outlier score finds images unlike the training images, and refuses arrays that do not fit each other.

Covers busfast/inference/outlier.py and the features of busfast/inference/engines.py (see test_onnx_export.py, too).
"""

from dataclasses import asdict, replace

import numpy as np
import pytest
import timm
import torch
from conftest import ARCH
from PIL import Image

from busfast.inference.engines import TorchEngine, WithFeatures, supports_features
from busfast.inference.outlier import Outlier, fit_outlier, is_colorful
from busfast.inference.predictor import load_predictor
from busfast.pipelines.image import ImagePipeline


def draw(count, seed, shift=0.0):
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(0).normal(size=(6, 40))
    return rng.normal(size=(count, 6)) @ mix + 0.1 * rng.normal(size=(count, 40)) + shift


@pytest.fixture
def outlier():
    return fit_outlier(draw(500, 1), draw(300, 2))


def test_a_hundredth_of_new_images_of_the_same_kind_is_called_unlike(outlier):
    assert (outlier.score(draw(5000, 3)) > 1).mean() == pytest.approx(0.01, abs=0.01)


def test_what_never_varied_counts_most(outlier):
    direction = np.linalg.qr(np.vstack([np.random.default_rng(0).normal(size=(6, 40)), np.ones(40)]).T)[0][:, 6]
    assert (outlier.score(draw(200, 4) + 2 * direction) > 1).all()  # 2 is as much as other directions vary


def test_few_images_and_features_that_never_vary_give_a_score():
    few = np.hstack([draw(5, 1), np.ones((5, 3))])
    assert np.isfinite(fit_outlier(few, few).score(few)).all()
    assert np.isfinite(fit_outlier(0 * few, 0 * few).score(few)).all()


@pytest.mark.parametrize("spoil", [
    lambda one: replace(one, mean=one.mean[:-1]), lambda one: replace(one, rest=np.float32([0])),
    lambda one: replace(one, threshold=np.float32([np.nan])), lambda one: replace(one, mean=one.mean.astype(float)),
    lambda one: replace(one, directions=one.mean), lambda one: Outlier(**(asdict(one) | {"other": one.mean})),
])
def test_arrays_that_do_not_belong_together_are_refused(outlier, spoil):
    with pytest.raises((ValueError, TypeError)):
        spoil(outlier)


@pytest.mark.parametrize(("arch", "can"), [(ARCH, True), ("test_resnet", True), ("test_vit", True)])
def test_features_come_with_the_very_logits_of_the_model(arch, can):
    model = timm.create_model(arch, num_classes=3).eval()
    size = model.pretrained_cfg["input_size"][-1]
    assert supports_features(model, (size, size)) is can
    x = torch.randn(3, 3, size, size)
    with torch.no_grad():
        logits, features = WithFeatures(model)(x)
        assert torch.allclose(logits, model(x), atol=1e-5)
    assert features.shape[0] == 3 and features.std(dim=0).max() > 0


def test_a_model_that_timm_does_not_know_gives_none():
    assert not supports_features(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 2)), (8, 8))


def tint(image, gains=(255, 240, 210)):
    values = np.asarray(image.convert("L"), float)[..., None] * np.array(gains) / 255
    return Image.fromarray(values.astype(np.uint8))


def test_a_tint_is_no_color_but_colors_are():
    gray = Image.fromarray(np.random.default_rng(0).integers(0, 160, (20, 20), "uint8"))
    shapes = np.random.default_rng(0).integers(0, 255, (20, 20, 3), "uint8")
    assert not is_colorful([np.asarray(tint(gray)), np.asarray(gray)[..., None]])
    assert is_colorful([shapes, shapes, np.asarray(tint(gray))])


def test_features_in_gray_are_those_of_the_gray_image_and_logits_stay_those_of_the_color():
    gray = np.random.default_rng(0).integers(0, 255, (64, 64, 1), dtype=np.uint8)
    colored = np.asarray(tint(Image.fromarray(gray[..., 0])))
    torch.manual_seed(0)
    model = timm.create_model(ARCH, num_classes=3)
    blind, seeing = (TorchEngine(model, ImagePipeline(64), torch.device("cpu"), 4, value) for value in (True, False))
    images = [colored, gray, gray.repeat(3, axis=2)]
    found, plain = blind.infer(images), seeing.infer(images)
    assert np.array_equal(found.logits, plain.logits)
    wanted = np.asarray(Image.fromarray(colored).convert("L"))[..., None]
    assert np.allclose(found.features, seeing.infer([wanted, gray, gray]).features, atol=1e-5)
    assert not np.allclose(found.features[0], plain.features[0], atol=1e-3)


FORMS = {
    "gray stored as color": lambda image, path: image.convert("RGB").save(f"{path}.png"),
    "a warm tint": lambda image, path: tint(image).save(f"{path}.png"),
    "a cold tint": lambda image, path: tint(image, (200, 225, 255)).save(f"{path}.bmp"),
    "TIFF": lambda image, path: image.convert("L").save(f"{path}.tif"),
    "mild JPEG": lambda image, path: image.convert("RGB").save(f"{path}.jpg", quality=85),
    "twice the size": lambda image, path: image.resize((2 * image.width, 2 * image.height)).save(f"{path}.png")}


@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_the_form_of_a_file_is_not_unlike_but_other_pictures_are(exported_once, tmp_path, engine):
    bundle = exported_once / "models" / "phantom" / "stratified" / "bundle"
    predictor = load_predictor(bundle, engine=engine)
    sources = sorted((exported_once / "data" / "phantom" / "images").glob("*"))[::4]
    for form, save in FORMS.items() if engine == "torch" else [("a warm tint", FORMS["a warm tint"])]:
        folder = tmp_path / form
        folder.mkdir()
        for number, source in enumerate(sources):
            save(Image.open(source), folder / str(number))
        assert unlike(predictor, folder) <= 0.05, form
    rng = np.random.default_rng(0)
    others = {"noise": rng.integers(0, 255, (10, 96, 96, 3)), "bright": 255 - rng.integers(0, 30, (10, 96, 96, 3)),
              "stripes": (np.indices((10, 96, 96))[2] // (2 + np.arange(10))[:, None, None] % 2 * 255)}
    for name, pictures in others.items():
        (tmp_path / name).mkdir()
        for number, picture in enumerate(pictures):
            Image.fromarray(picture.astype(np.uint8)).save(tmp_path / name / f"{number}.png")
        assert unlike(predictor, tmp_path / name) >= 0.95, name


def unlike(predictor, folder):
    """The share of a folder's images that are called unlike the training images."""
    return (predictor.table(sorted(folder.iterdir()))["outlier"].astype(float) > 1).mean()
