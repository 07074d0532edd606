"""What docs/handover.md says to do without busfast works without busfast, as it stands there."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import write_pipeline

import busfast
from busfast.cli import main
from busfast.inference.bundle import describe_input, write_bundle
from busfast.inference.load_bundle import load_bundle
from busfast.models.arch import make_timm
from busfast.pipelines.image import ImagePipeline

HOUSE = Path(busfast.__file__).parent
PAGE = HOUSE.parent / "docs" / "handover.md"
ABSENT = {"torch": ("busfast", "fastai", "nvidia.dali"),
          "onnx": ("busfast", "fastai", "scipy", "sklearn", "torch", "timm", "safetensors", "nvidia.dali")}
GUARD = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if any((name + ".").startswith(one + ".") for one in {absent!r}):
            raise ModuleNotFoundError("No module named " + repr(name))
sys.meta_path.insert(0, Absent())
"""


ENSEMBLE = "phantom/stratified-seeds-ensemble"


@pytest.fixture(scope="module")
def bundles(exported_once, tmp_path_factory, phantom_folder):
    """The bundles, with model.onnx, of a run and of an ensemble that takes mirrored images, too; run -> folder."""
    folder = tmp_path_factory.mktemp("ensemble")
    write_pipeline(folder, phantom_folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line in ("train --preset=best --epochs=2 --seeds=2 --size=40", f"evaluate --run={ENSEMBLE}",
                     f"export --run={ENSEMBLE} --format=onnx"):
            assert main(line.split()) == 0
    return {"phantom/stratified": exported_once / "models/phantom/stratified/bundle",
            ENSEMBLE: folder / "models" / ENSEMBLE / "bundle"}


@pytest.mark.parametrize("run", ["phantom/stratified", ENSEMBLE])
@pytest.mark.parametrize("way", ["torch", "onnx"])
def test_the_code_of_the_page_predicts_what_predict_does(bundles, workdir, phantom_folder, odd_images, way, run):
    bundle = str(bundles[run])
    for name in ("inference/load_bundle.py", "data/images.py"):
        shutil.copy(HOUSE / name, workdir)
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[way == "onnx"]
    (workdir / "use.py").write_text(GUARD.format(absent=ABSENT[way]) + code)
    images = [*sorted((phantom_folder / "images").iterdir())[:2], *odd_images.values()]
    rows = predict(images, bundle)
    done = subprocess.run([sys.executable, "use.py", bundle, *map(str, images)], capture_output=True, text=True,
                          cwd=workdir, env={"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == rows["image"].tolist()
    for line, (_, row) in zip(lines, rows.iterrows(), strict=True):
        there = dict(zip(line[1::2], map(float, line[2::2]), strict=True))
        assert there == pytest.approx({name: row[f"p_{name}"] for name in there}, abs=1e-4)


def predict(images, bundle) -> pd.DataFrame:
    table = Path("list.txt")
    table.write_text("\n".join(map(str, images)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdin", table.open())
        assert main(["predict", "-", f"--model={bundle}", "--out=out.csv"]) == 0
    return pd.read_csv("out.csv")


@pytest.mark.parametrize(("arch", "image"), [("test_vit3", ImagePipeline(size=64)),
                                             ("test_maxvit", ImagePipeline(size=64, width=96))])
def test_a_model_of_a_fixed_size_is_loaded_at_the_size_of_its_images(arch, image, tmp_path):
    model = make_timm(arch, image.sides, num_classes=2).eval()
    facts = dict.fromkeys(("temperature", "metrics", "outlier", "run")) | {
        "classes": ["a", "b"], "architecture": arch, "input": describe_input(image), "operating_points": []}
    write_bundle(tmp_path, model, facts | ({"tta": "none", "label_delim": ""} if image.width else {}))
    x = torch.randn(3, 3, *image.sides)
    with torch.inference_mode():
        assert torch.equal(load_bundle(tmp_path)[0](x), model(x))
