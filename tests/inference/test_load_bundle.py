"""What docs/handover.md says to do without busfast works without busfast, as it stands there."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from conftest import write_pipeline

import busfast
from busfast.cli import main

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
    """The bundles, with model.onnx, of a run and of an ensemble, made once; run -> folder."""
    folder = tmp_path_factory.mktemp("ensemble")
    write_pipeline(folder, phantom_folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line in ("train --epochs=1 --seeds=2", "ensemble --runs=phantom/stratified-seeds",
                     f"evaluate --run={ENSEMBLE}", f"export --run={ENSEMBLE} --format=onnx"):
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
                          cwd=workdir, env={"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1"})
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
