import subprocess
import sys
from pathlib import Path

import pandas as pd
import stores

from busfast.imports import is_installed


def test_every_store_gives_its_pixels_back(tmp_path):
    for name in stores.STORES:
        if not all(map(is_installed, stores.STORES[name][1])):
            continue
        ready = stores.make_store(name, str(tmp_path / name), 8, 32, 4)
        assert ready.facts["mb"] * 1e6 >= 8 * 32 * 32, name


def test_the_script_measures_in_processes_of_their_own_and_writes_its_report(tmp_path):
    flags = ["--images=8", "--size=32", "--bs=4", "--rounds=1", "--only=NumPy", f"--out={tmp_path}"]
    done = subprocess.run([sys.executable, stores.__file__, *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "stores.csv")
    assert table["name"].tolist() == ["NumPy memory map"] and table["img_per_s"][0] > 0
    assert "python benchmarks/stores.py --images=8" in Path(tmp_path / "stores.md").read_text()
