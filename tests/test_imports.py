"""Modules are imported on first use, and a missing optional package is named with the command that installs it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from busfast.errors import UserError
from busfast.imports import lazy_names, require_package


def test_a_name_is_imported_from_its_module_and_an_unknown_one_is_an_attribute_error():
    get = lazy_names("busfast.data", {"match_label": ".labels", "counted": "busfast.text"})
    assert get("match_label").__module__ == "busfast.data.labels" and get("counted").__module__ == "busfast.text"
    with pytest.raises(AttributeError, match="module 'busfast.data' has no attribute 'nothing'"):
        get("nothing")


def run(code, *folders):
    """What a fresh Python, which also finds the modules in `folders`, prints."""
    path = os.pathsep.join(map(str, (*folders, Path(__file__).parents[1])))
    return subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, capture_output=True,
                          text=True, check=True).stdout


def test_no_garbage_is_sought_among_imports_and_all_is_as_before_after_them_or_an_error():
    run("""
import gc, sys
from busfast.imports import heavy_imports
finders = list(sys.meta_path)
try:
    with heavy_imports():
        assert not gc.isenabled()
        import busfast.nothing
except ModuleNotFoundError:
    pass
assert gc.isenabled() and gc.get_freeze_count() > 1000 and sys.meta_path == finders
""")


@pytest.mark.parametrize("before", ["sys.modules['fastai'] = None", "gc.disable()"])
def test_where_fastai_is_loaded_or_the_collector_is_off_heavy_imports_change_nothing(before):
    run(f"""
import gc, sys
from busfast.imports import heavy_imports
{before}
state, finders = gc.isenabled(), list(sys.meta_path)
with heavy_imports():
    assert gc.isenabled() == state and sys.meta_path == finders
assert gc.isenabled() == state and gc.get_freeze_count() == 0
""")


def test_wandb_runs_when_it_is_used_not_when_timm_imports_it(tmp_path):
    (tmp_path / "wandb.py").write_text("print('wandb runs')\nvalue = 3\n")
    assert run("""
from busfast.imports import heavy_imports
with heavy_imports():
    import wandb
print("imported")
import wandb
print(wandb.value)
""", tmp_path).split("\n") == ["imported", "wandb runs", "3", ""]


@pytest.mark.parametrize("gpu", [True, False])
def test_a_compiler_for_gpus_is_imported_only_where_there_is_one(tmp_path, gpu):
    (tmp_path / "triton.py").write_text("print('triton runs')\n")
    assert run(f"""
from pathlib import Path
from busfast import imports
imports.GPUS = (Path({str(tmp_path if gpu else tmp_path / "nvidiactl")!r}),)
with imports.heavy_imports():
    try:
        import triton
    except ImportError:
        print("no triton")
""", tmp_path) == ("triton runs\n" if gpu else "no triton\n")


def test_an_installed_package_passes_and_a_missing_one_names_the_command():
    require_package("numpy", "A test needs NumPy", "pip install numpy")
    for module in ("busfast_absent", "busfast_absent.inner"):
        with pytest.raises(UserError, match="A test needs it: pip install absent"):
            require_package(module, "A test needs it", "pip install absent")


def test_a_terminal_is_told_what_the_seconds_are_for_and_a_file_is_not():
    code = """
import sys
from types import SimpleNamespace
from busfast.imports import heavy_imports
sys.stderr = SimpleNamespace(isatty=lambda: TERMINAL, write=sys.stdout.write, flush=sys.stdout.flush)
with heavy_imports():
    pass
"""
    assert run(code.replace("TERMINAL", "False")) == ""
    said, wiped, end = run(code.replace("TERMINAL", "True")).split("\n")  # \r, as Python reads it
    assert said.startswith("loading torch") and wiped.isspace() and len(wiped) == len(said) and not end
