"""Shared test data: the phantom, small, made once a session; images of every kind."""

import atexit
import gc
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports the hub's library: tests need no network
os.environ["BUSFAST_CACHE"] = tempfile.mkdtemp(prefix="busfast-cache-")  # not the user's
os.environ["OMP_NUM_THREADS"] = "1"  # tiny models: threads would only wait for each other

import hypothesis
import numpy as np
import pytest
from filelock import FileLock
from PIL import Image
from training.blank_curves import draw_blank_batch, draw_blank_curves

from busfast.data import phantom, read_table, split_table
from busfast.training import curves

ARCH = "test_efficientnet.r160_in1k"  # timm's smallest: 0.4 million weights
SIZE = 64
DRAW_CURVES, DRAW_BATCH = curves.draw_curves, curves.draw_batch
atexit.register(shutil.rmtree, os.environ["BUSFAST_CACHE"], ignore_errors=True)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

# The same examples in every run; more and others: pytest --hypothesis-profile=search
hypothesis.settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
hypothesis.settings.register_profile("search", database=None, deadline=None, max_examples=1000)
hypothesis.settings.load_profile("repeatable")


# The longest first, 20 seconds or more each.
LONG = ("test_readme.py", "test_run_groups.py", "test_resume.py", "test_notebooks.py", "test_distributed.py",
        "test_gpu.py", "test_load_bundle.py", "test_trackers.py", "test_sweep.py", "test_bench.py", "test_report.py",
        "test_pickles.py")


def pytest_collection_modifyitems(items):
    """Long files come first: of several workers, each of which takes a file at a time, none then ends much later."""
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))
    gc.freeze()  # what all tests have imported is not garbage: looking through it takes time


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts from the same random state, so that a failure can be repeated."""
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def blank_curves():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curves, "draw_curves", draw_blank_curves)
        patch.setattr(curves, "draw_batch", draw_blank_batch)
        yield


@pytest.fixture(scope="session", autouse=True)
def no_wait_for_the_disk():
    """No file of a test is to outlive a power cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture
def real_curves(monkeypatch):
    """Undoes `blank_curves`."""
    monkeypatch.setattr(curves, "draw_curves", DRAW_CURVES)
    monkeypatch.setattr(curves, "draw_batch", DRAW_BATCH)


@pytest.fixture(scope="session")
def phantom_folder(tmp_path_factory):
    return phantom.write_phantom(tmp_path_factory.mktemp("data") / "phantom", images=90).parent


@pytest.fixture
def table(phantom_folder):
    return read_table(phantom_folder)


@pytest.fixture
def parts(table):
    return split_table(table, "stratified")


@pytest.fixture
def workdir(tmp_path, monkeypatch, phantom_folder):
    """An empty folder to work in, with pipelines/phantom.yaml set to be small."""
    monkeypatch.chdir(tmp_path)
    write_pipeline(tmp_path, phantom_folder)
    return tmp_path


@pytest.fixture
def place(trained, tmp_path, monkeypatch):
    """A copy, to work in, of what a test file's own fixture `trained` has made once."""
    shutil.copytree(trained, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


def write_pipeline(folder, data):
    (folder / "pipelines").mkdir()
    (folder / "pipelines" / "phantom.yaml").write_text(
        f"data: {data}\nsize: {SIZE}\nepochs: 2\nbs: 16\narch: {ARCH}\nweights: none\ndevice: cpu\n"
        "loader: torchvision\n")


def run_in(folder, *lines):
    from busfast.cli import main  # not before the hub's library knows that there is no network

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line in lines:
            assert main(line.split()) == 0


@pytest.fixture(scope="session")
def make_once(tmp_path_factory):
    """Has a folder made that nobody changes: by the first of several workers that needs it, for all."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def make_once(name, make):
        with FileLock(root / f"{name}.lock"):
            if not (done := root / f"{name}.made").exists():
                make(root / name)
                done.touch()
        return root / name
    return make_once


@pytest.fixture(scope="session")
def exported_once(make_once):
    """A folder with a phantom and a run that was trained, evaluated and exported in every form; made once."""
    def make(place):
        phantom.write_phantom(place / "data" / "phantom", images=120)
        (place / "pipelines").mkdir()
        (place / "pipelines" / "phantom.yaml").write_text(
            f"data: data/phantom\nsource: phantom\nsize: {SIZE}\nepochs: 1\nbs: 16\narch: {ARCH}\nweights: none\n"
            "device: cpu\nloader: torchvision\ncache: 'off'\n")
        run_in(place, "train", "evaluate --run=phantom/stratified",
               "export --run=phantom/stratified --format=bundle,onnx,learner")
    return make_once("exported", make)


@pytest.fixture
def exported_run(exported_once, tmp_path, monkeypatch):
    """A copy of it to spoil, and to work in."""
    shutil.copytree(exported_once, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


@pytest.fixture
def exported_bundle(exported_once, tmp_path, monkeypatch):
    """A copy of its bundle and of eight images, at the same paths, to spoil and to work in: far less than the run."""
    place, bundle, images = tmp_path / "place", Path("models/phantom/stratified/bundle"), Path("data/phantom/images")
    shutil.copytree(exported_once / bundle, place / bundle)
    (place / images).mkdir(parents=True)
    for path in sorted((exported_once / images).iterdir())[:8]:
        shutil.copy(path, place / images)
    monkeypatch.chdir(place)
    return place / bundle


@pytest.fixture(scope="session")
def odd_images(tmp_path_factory):
    """Real files of every kind that a clinic may have, with structure in them; name -> path."""
    folder = tmp_path_factory.mktemp("odd")
    y, x = np.mgrid[0:150, 0:211]
    rng = np.random.default_rng(0)
    gray = (110 + 60 * np.sin(x / 9) + 50 * np.cos(y / 13) + rng.normal(0, 8, x.shape)).clip(0, 255).astype(np.uint8)
    rgb = Image.fromarray(np.stack([gray, gray[::-1], gray[:, ::-1]], axis=-1))
    gray = Image.fromarray(gray)
    rgba = rgb.copy()
    rgba.putalpha(gray)
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray(np.asarray(gray).astype(np.uint16) * 16)
    files = {
        "gray.jpg": (gray, {}), "rgb.jpg": (rgb, {}), "rgb_420.jpg": (rgb, {"subsampling": 2, "quality": 80}),
        "progressive.jpg": (rgb, {"progressive": True}), "rotated.jpg": (rgb, {"exif": exif}),
        "cmyk.jpg": (rgb.convert("CMYK"), {}), "gray.png": (gray, {}), "rgb.png": (rgb, {}), "rgba.png": (rgba, {}),
        "gray_alpha.png": (rgba.convert("LA"), {}), "palette.png": (rgb.convert("P"), {}),
        "black_white.png": (gray.convert("1"), {}), "12_bit.png": (deep, {}), "12_bit.tif": (deep, {}),
        "rotated.png": (rgb, {"exif": exif}), "gray.bmp": (gray, {}), "rgb.bmp": (rgb, {}), "gray.tif": (gray, {}),
        "rgb.tif": (rgb, {}), "lzw.tif": (rgb, {"compression": "tiff_lzw"}),
        "float.tif": (Image.fromarray(np.asarray(gray).astype(np.float32) / 255), {}),
    }
    for name, (image, options) in files.items():
        image.save(folder / name, **options)
    return {name: folder / name for name in files}


@pytest.fixture
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    with playwright.sync_playwright() as session:
        chromium = session.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()
