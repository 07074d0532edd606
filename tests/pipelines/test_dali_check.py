"""A file that DALI cannot decode, or that ends its process, is named and left to Pillow; a training goes on."""

import json
import sys

import numpy as np
import pytest
import torch

from busfast.data.images import load_pixels
from busfast.pipelines import dali_check
from busfast.pipelines.image import ImagePipeline
from pipelines.test_dali_formats import JPEG, PILLOWS

dali_loader = pytest.importorskip("busfast.pipelines.dali_loader")
# A child that decodes nothing: "crash" in a path ends it, "bad" is refused.
CHILD = """
import json, os, signal, sys
batches, gpu = json.load(sys.stdin)
for number, paths in enumerate(batches):
    print(json.dumps([number, None]), flush=True)
    if any("crash" in path for path in paths):
        os.kill(os.getpid(), signal.SIGSEGV)
    print(json.dumps([number, [path for path in paths if "bad" in path]]), flush=True)
"""


@pytest.fixture(autouse=True)
def none_refused(monkeypatch):
    monkeypatch.setattr(dali_loader, "REFUSED", set())


@pytest.mark.parametrize("count", [3, 200])
def test_files_that_end_the_process_are_found_one_by_one_and_all_others_tried(monkeypatch, capsys, count):
    monkeypatch.setattr(dali_check, "COMMAND", (sys.executable, "-c", CHILD))
    paths = [f"{number}.jpg" for number in range(count)]
    paths[1], paths[-1] = "crash.png", "crash2.png"
    paths[count // 2] = "bad.jpg" if count > 3 else "crash.png"
    dali_check.check_dali(paths, torch.device("cpu"))
    expected = {path for path in paths if path[0] in "bc"}
    assert dali_loader.REFUSED == expected
    assert f"DALI cannot decode {len(expected)} images, so Pillow does" in capsys.readouterr().out


def test_a_child_that_cannot_begin_is_said(monkeypatch, capsys):
    monkeypatch.setattr(dali_check, "COMMAND", (sys.executable, "-c", "raise SystemExit(3)"))
    dali_check.check_dali(["a.jpg"], torch.device("cpu"))
    assert "DALI was not tried on the images before training" in capsys.readouterr().out


def test_the_child_decodes_with_dali(tmp_path, capsys, monkeypatch):
    (tmp_path / "good.jpg").write_bytes(JPEG)
    (tmp_path / "junk.jpg").write_bytes(PILLOWS["junk.jpg"])
    monkeypatch.setattr("busfast.pipelines.dali_formats.dali_mode", lambda data: "RGB")  # as if it were not known
    paths = [str(tmp_path / name) for name in ("good.jpg", "junk.jpg")]
    with open(tmp_path / "job", "w+") as job:
        json.dump([[paths, paths[:1]], None], job)
        job.seek(0)
        monkeypatch.setattr(sys, "stdin", job)
        dali_check.main()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [[0, None], [0, paths[1:]], [1, None], [1, []]]


def test_images_that_dali_refuses_in_the_middle_of_an_epoch_are_pillows(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(dali_loader, "dali_mode", lambda data, enough: "RGB")
    paths = [str(tmp_path / f"{number}.jpg") for number in range(5)]
    for number, path in enumerate(paths):
        with open(path, "wb") as file:
            file.write(PILLOWS["junk.jpg"] if number == 2 else JPEG)
    loader = dali_loader.DaliLoader(ImagePipeline(size=32), 2, torch.device("cpu"), threads=1)
    for _ in range(2):
        batches = list(loader.batches([paths[:2], paths[2:4], paths[4:]]))
        pixels = np.concatenate([batch.numpy().astype(int) for batch in batches])
        assert np.abs(pixels - load_pixels(paths[0], 32)).mean() < 1
    assert capsys.readouterr().out.count("DALI cannot decode 1 image, so Pillow does, such as " + paths[2]) == 1
