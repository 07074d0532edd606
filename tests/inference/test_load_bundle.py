"""What docs/handover.md says to do without busfast works without busfast, as it stands there."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

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


RUNS = {"phantom/stratified": ("train --epochs=1 --then=evaluate",),
        "phantom/stratified-seeds-ensemble": ("train --epochs=1 --seeds=2", "ensemble --runs=phantom/stratified-seeds",
                                              "evaluate --run=phantom/stratified-seeds-ensemble")}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("way", ["torch", "onnx"])
def test_the_code_of_the_page_predicts_what_predict_does(workdir, phantom_folder, odd_images, way, run):
    if way == "onnx":
        pytest.importorskip("onnxscript")
    for line in RUNS[run]:
        assert main(line.split()) == 0
    assert main(["export", f"--run={run}", f"--format={'onnx' if way == 'onnx' else 'bundle'}"]) == 0
    bundle = f"models/{run}/bundle"
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
