"""What is handed out as a wheel holds all that busfast needs and no more, and does the main job in an empty folder."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from conftest import ARCH

from busfast import __version__

HOUSE = Path(__file__).parents[1]
PARTS = ("busfast", "pipelines", "setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "tests")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the sdist of a clone, and the wheel that was made of it, without a network."""
    clone = tmp_path_factory.mktemp("clone")
    for part in PARTS:
        if (HOUSE / part).is_dir():
            shutil.copytree(HOUSE / part, clone / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(HOUSE / part, clone)
    words = [sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist", "."]
    done = subprocess.run(words, cwd=clone, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return clone / "dist"


def test_the_wheel_holds_the_code_the_pages_templates_and_the_pipelines(built):
    with zipfile.ZipFile(built / f"busfast-{__version__}-py3-none-any.whl") as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    own = {path.relative_to(HOUSE).as_posix() for path in (HOUSE / "busfast").rglob("*")
           if path.is_file() and "__pycache__" not in path.parts}
    pipelines = {f"busfast/pipelines/builtin/{path.name}" for path in (HOUSE / "pipelines").glob("*.yaml")}
    assert names == own | pipelines
    assert len(pipelines) >= 3


def test_the_sdist_holds_what_makes_the_wheel(built):
    with tarfile.open(built / f"busfast-{__version__}.tar.gz") as sdist:
        top = {Path(name).parts[1] for name in sdist.getnames() if len(Path(name).parts) > 1}
    assert top == {"busfast", "busfast.egg-info", "setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE",
                   "PKG-INFO"}


def test_the_wheel_does_the_main_job_in_an_empty_folder(built, tmp_path):
    with zipfile.ZipFile(built / f"busfast-{__version__}-py3-none-any.whl") as wheel:
        wheel.extractall(tmp_path / "installed")
        assert "busfast = busfast.cli:main" in wheel.read(f"busfast-{__version__}.dist-info/entry_points.txt").decode()
    here = tmp_path / "empty"
    here.mkdir()
    job = f"""
import busfast
from busfast.cli import main
from busfast.data.phantom import write_phantom
write_phantom("data/phantom", images=90)
print("from", busfast.__file__)
raise SystemExit(main("train --split=stratified --epochs=1 --size=32 --arch={ARCH} --weights=none --device=cpu "
                      "--loader=torchvision --cache=off".split()))
"""
    done = subprocess.run([sys.executable, "-c", job], cwd=here, capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(tmp_path / "installed")})
    assert done.returncode == 0, done.stderr
    assert f"from {tmp_path / 'installed' / 'busfast'}" in done.stdout
    assert (here / "models" / "phantom" / "stratified" / "best.pth").is_file()


def test_the_changelog_begins_with_this_version():
    titles = [line for line in (HOUSE / "CHANGELOG.md").read_text(encoding="utf-8").splitlines() if line[:3] == "## "]
    assert titles[0].split(",")[0] == f"## {__version__}"
