"""ONNX: any number of images at once, and a file that says how to feed it."""

import json
import sys

import numpy as np
import pytest
import torch
from conftest import ARCH

from busfast.errors import UserError
from busfast.inference.bundle import describe_input
from busfast.inference.engines import STAGES, OnnxEngine, TorchEngine
from busfast.inference.onnx_export import export_onnx
from busfast.models.arch import make_timm
from busfast.pipelines.image import ImagePipeline

IMAGE = ImagePipeline(size=64)
FACTS = {"classes": ["a", "b", "c"], "architecture": ARCH, "input": describe_input(IMAGE), "temperature": 1.5,
         "operating_points": [], "outlier": None}


def export(arch, **options):
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    model = make_timm(arch, IMAGE.sides, num_classes=3, **options).eval()
    with torch.no_grad():
        model.get_classifier().weight.mul_(30)  # logits that are apart
    return model, export_onnx(model, FACTS | {"architecture": arch}, features=True)


@pytest.fixture(scope="module")
def exported():
    return export(ARCH)


@pytest.fixture(scope="module")
def exported_maxvit():
    """Windows of a fixed size, with attention of two heads."""
    return export("test_maxvit", depths=(1,), embed_dim=(64,), block_type=("M",))


@pytest.mark.parametrize("form", ["exported", "exported_maxvit"])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_any_number_of_images_gives_what_torch_gives(form, count, request):
    pytest.importorskip("onnxruntime")
    model, content = request.getfixturevalue(form)
    images = [np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8) for number in range(count)]
    there, here = (engine.infer(images) for engine in (
        OnnxEngine(content, IMAGE), TorchEngine(model, IMAGE, torch.device("cpu"), STAGES)))
    assert there.logits.shape == (count, 3) and there.features.shape == here.features.shape
    assert np.abs(there.logits - here.logits).max() < 1e-4 * max(1, np.abs(here.logits).max())
    assert np.abs(there.features - here.features).max() < 1e-4


def test_the_file_says_how_to_feed_it(exported):
    onnx = pytest.importorskip("onnx")
    told = {one.key: one.value for one in onnx.load_from_string(exported[1]).metadata_props}
    facts = json.loads(told["busfast"])
    assert facts["input"]["size"] == 64 and facts["classes"] == ["a", "b", "c"] and facts["temperature"] == 1.5
    assert "bilinear with antialiasing" in told["preprocessing"]
    assert "not a medical device" in told["intended_use"]


def test_a_broken_file_is_refused():
    pytest.importorskip("onnxruntime")
    with pytest.raises(UserError, match="cannot read model.onnx"):
        OnnxEngine(b"no model", IMAGE)


def test_without_the_packages_the_way_to_get_them_is_named(monkeypatch):
    for name in ("onnxruntime", "onnxscript"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match="pip install onnx onnxscript onnxruntime"):
        OnnxEngine(b"", IMAGE)
    with pytest.raises(UserError, match="pip install onnx onnxscript onnxruntime"):
        export_onnx(torch.nn.Identity(), FACTS, features=False)
