"""What may be copied imports nothing of busfast; nothing asks the network; what is kept is for its user alone."""

import ast
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants
from PIL import Image

from busfast.cli import main
from busfast.data.fingerprint import fingerprint_images
from busfast.pipelines.cache import Cache
from busfast.pipelines.image import ImagePipeline
from security.hostile import BUNDLE, RUN, images

HOUSE = Path(__file__).parents[2]
ALONE = {"busfast/data/images.py": {"numpy", "PIL"},
         "busfast/inference/load_bundle.py": {"timm", "torch", "safetensors"}}
RARELY = {"cv2", "tifffile", "busfast"}  # within functions, and only for files that Pillow does not read right


@pytest.mark.parametrize("file", ALONE)
def test_a_file_that_may_be_copied_imports_nothing_of_busfast(file):
    found = set()
    for node in ast.walk(ast.parse((HOUSE / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            found.add(node.module.split(".")[0])
    assert found - set(sys.stdlib_module_names) - RARELY == ALONE[file]


def test_images_are_read_without_what_is_rarely_needed(tmp_path):
    """As where an exported learner is used and busfast is not installed."""
    Image.effect_noise((20, 30), 50).save(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_text("no image")
    code = f"""
import sys
for name in {sorted(RARELY)!r}: sys.modules[name] = None
import runpy
images = runpy.run_path({str(HOUSE / "busfast/data/images.py")!r})
print(images["read_image"]("a.jpg").size)
try: images["read_image"]("b.jpg")
except Exception as error: print(images["why_unreadable"](error))
"""
    lines = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
                           check=True).stdout.splitlines()
    assert lines == ["(20, 30)", "UnidentifiedImageError: cannot identify image file 'b.jpg'"]


def test_nothing_asks_the_network(exported_run, monkeypatch):
    """But for `--weights=auto`, which looks for pretrained weights; see tests/models/test_weights.py."""
    asked = []
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, lambda self, address: asked.append(address))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: asked.append(args) or [])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for words in ("audit", "train --weights=none --then=report", f"export --run={RUN} --format=bundle,onnx,learner",
                  f"predict data/phantom --model={BUNDLE} --out=out.csv",
                  f"predict data/phantom --model={BUNDLE} --engine=onnx --out=two.csv", "compare"):
        assert main(words.split()) == 0
    assert asked == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps rights elsewhere")
def test_what_is_kept_of_images_is_for_their_user_alone(exported_run, monkeypatch):
    monkeypatch.setenv("BUSFAST_CACHE", str(exported_run / "cache"))
    assert Cache("auto", "data", [str(path) for path in images()]).pixels(ImagePipeline(size=32)) is not None
    fingerprint_images(images())
    assert stat.S_IMODE(Path("cache").stat().st_mode) == 0o700
    assert {path.suffix for path in Path("cache").iterdir()} == {".npz", ""}
