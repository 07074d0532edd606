"""What may be copied imports nothing of busfast; nothing asks the network; what is kept is for its user alone."""

import ast
import socket
import stat
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from busfast.cli import main
from busfast.data.fingerprint import fingerprint_images
from busfast.pipelines.cache import Cache
from busfast.pipelines.image import ImagePipeline
from security.hostile import BUNDLE, RUN, images

HOUSE = Path(__file__).parents[2]
ALONE = {"busfast/data/images.py": {"numpy", "PIL"},
         "busfast/inference/load_bundle.py": {"timm", "torch", "safetensors"}}

@pytest.mark.parametrize("file", ALONE)
def test_a_file_that_may_be_copied_imports_nothing_of_busfast(file):
    found = set()
    for node in ast.walk(ast.parse((HOUSE / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            found.add(node.module.split(".")[0])
    assert found - set(sys.stdlib_module_names) == ALONE[file]


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
