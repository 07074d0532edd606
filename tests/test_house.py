"""What the house promises: floors that import downwards only, heavy things in one place, a help that starts at once."""

import ast
import configparser
import os
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from busfast.imports import is_installed

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "busfast"
# From the ground up. A folder imports its own files and those of lower floors; not of its neighbors on its own floor.
FLOORS = (("base",), ("data",), ("pipelines",), ("models",), ("training", "inference"), ("results",),
          ("demo", "bench", "sweep"), ("cli",))
HEAVY = ("torch", "torchvision", "fastai", "timm", "pandas", "numpy", "matplotlib", "nvidia", "sklearn", "scipy", "PIL")
# Public names of version 0.1 that notebooks import from where they were; no code of busfast does.
ALIASES = {"busfast": {"busfast.models.accelerate", "busfast.pipelines.from_data", "busfast.models.learner"},
           "busfast.models": {"busfast.inference.predictor", "busfast.inference.stream",
                              "busfast.inference.fastai_export"}}


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in FILES.items()}


def folder_of(module):
    """The folder under busfast/ that a module lies in; "base" for a file beside the folders."""
    name = f"{module}.".split(".")[1]
    return "cli" if name == "__main__" else name if name and (PACKAGE / name).is_dir() else "base"


def floor_of(module):
    return next(number for number, folders in enumerate(FLOORS) if folder_of(module) in folders)


def may_use(module, other):
    """Whether the floors let `module` use what `other` defines."""
    return folder_of(module) == folder_of(other) or floor_of(other) < floor_of(module)


@cache
def imports_of(module):
    """Every module that a file imports, wherever in it; a function's or class's own module, not its name."""
    found = set()
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            # `from nvidia import dali` and `from busfast.data import images` import a module, not a name in one.
            found |= {name if name in FILES or not node.module.startswith("busfast") else node.module
                      for name in names}
        elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "MODULES":  # when asked for
            found |= {f"{module}{value}" if value.startswith(".") else value for value in
                      ast.literal_eval(node.value).values()} - ALIASES.get(module, set())
    return found


def own_imports_of(module):
    return {name for name in imports_of(module) if name.split(".")[0] == "busfast"}


def importers_of(library):
    """The files that import a library or anything in it."""
    return [module for module in FILES if any(f"{name}.".startswith(f"{library}.") for name in imports_of(module))]


@cache
def callbacks():
    """fastai's name of each callback, under which any other reaches it as an attribute -> its module."""
    found = {}
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            bases = {getattr(base, "id", "") for base in getattr(node, "bases", ())}
            if isinstance(node, ast.ClassDef) and any("Callback" in base or base in found for base in bases):
                found[node.name] = module
    return {re.sub(r"(?<!^)(?=[A-Z])", "_", name.removesuffix("Callback")).lower(): module
            for name, module in found.items()}


@cache
def attributes_of(module):
    return {node.attr for node in ast.walk(TREES[module]) if isinstance(node, ast.Attribute)}


def test_the_imports_are_seen():
    assert "busfast.data.table" in imports_of("busfast.data.split")
    assert "busfast.training.turns" in imports_of("busfast.cli.train")  # inside a function
    assert "busfast.models.learner" in imports_of("busfast.models")  # by name, when asked for
    assert "training_log" in callbacks()
    assert {folder_of(module) for module in FILES} == {folder for floor in FLOORS for folder in floor}


def test_a_file_uses_its_own_folder_and_lower_floors():
    imports = [f"{module} imports {name}" for module in FILES for name in sorted(own_imports_of(module))
               if name not in FILES or not may_use(module, name)]
    hidden = [f"{module} reaches {name} of {other} through fastai's attribute lookup"
              for name, other in callbacks().items() for module in importers_of("fastai")
              if name in attributes_of(module) and not may_use(module, other)]
    assert imports + hidden == []


def test_no_modules_import_each_other_in_a_circle():
    circle = []
    try:
        TopologicalSorter({module: own_imports_of(module) - {module} for module in FILES}).prepare()
    except CycleError as error:
        circle = error.args[1]
    assert circle == []


@pytest.mark.parametrize(("library", "module"), [("nvidia", "busfast.pipelines.dali_loader"),
                                                 ("fire", "busfast.cli.parse"),
                                                 ("gradio", "busfast.demo.page")])
def test_a_library_that_is_kept_apart_is_imported_in_one_file(library, module):
    assert importers_of(library) == [module]


@pytest.mark.parametrize("library", ["torch", "torchvision", "fastai", "timm"])
def test_data_needs_no(library):
    assert [module for module in importers_of(library) if floor_of(module) < 2] == []


def public_functions(module):
    """Public functions of a module, and methods of its public classes that follow no other library's."""
    for node in TREES[module].body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node, node.args.posonlyargs + node.args.args + node.args.kwonlyargs
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and not node.bases:
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and (method.name == "__init__" or method.name[0] != "_"):
                    yield method, (method.args.posonlyargs + method.args.args)[1:] + method.args.kwonlyargs


def test_a_public_function_says_the_types_of_all_that_it_takes_and_returns():
    functions = [(module, *one) for module in FILES if not module.startswith("busfast.bench.")
                 for one in public_functions(module)]
    assert [f"{module}.{one.name}({argument.arg})" for module, one, arguments in functions for argument in arguments
            if argument.annotation is None] == []
    assert [f"{module}.{one.name}" for module, one, _ in functions
            if one.returns is None and one.name != "__init__"] == []


def texts_of(tree):
    """The texts of a file as they are printed, with VALUE for each value."""
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "VALUE" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
            yield node.value


def test_a_command_in_a_message_can_be_copied_without_a_full_stop_at_its_end():
    stopped = re.compile(r"python -m busfast \w+(?: (?:--|VALUE)[^\s)]*)*(?<!\.)\.(?=\s|$)")
    assert stopped.search("Train: python -m busfast train --data=VALUE --out=data/NAME. Then") and not stopped.search(
        "in python -m busfast compare are scores.")
    assert [(module, text) for module, tree in TREES.items() for text in texts_of(tree) if stopped.search(text)] == []


def test_every_file_has_its_test():
    """tests/ROOM/test_NAME.py, or a test file whose docstring names the path (busfast/ROOM/NAME.py)."""
    tests = {path.relative_to(ROOT / "tests"): ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
             for path in (ROOT / "tests").rglob("test_*.py")}
    headers = "\n".join(tests.values())
    paths = [path.relative_to(PACKAGE) for path in FILES.values()]
    named = {path: path.parent / f"test_{path.parent.name if path.stem == '__init__' else path.stem}.py"
             for path in paths}
    assert [f"busfast/{path}" for path in paths
            if named[path] not in tests and f"busfast/{path}" not in headers] == []


def test_no_room_holds_a_third_of_the_house():
    lines = Counter()
    for module, path in FILES.items():
        lines[folder_of(module)] += len(path.read_text(encoding="utf-8").splitlines())
    assert [f"{room}: {count}" for room, count in lines.items() if count > 0.3 * lines.total()] == []


def loaded_after(code, folder=ROOT):
    """The modules that a fresh Python in a folder has loaded after running `code`."""
    code += "\nimport sys\nprint('loaded:', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)},
                          capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("loaded:")[2].split())


@pytest.mark.parametrize("line", [["--help"], ["train", "--help"], ["trian"], []])
def test_help_and_a_misspelt_verb_load_nothing_heavy(line):
    loaded = loaded_after(f"from busfast.cli import main\nmain({line})")
    assert "fire" in loaded
    assert loaded & set(HEAVY) == set()


def test_reading_a_table_and_a_pipeline_loads_no_torch():
    loaded = loaded_after("import busfast.data, busfast.data.check, busfast.data.phantom, busfast.pipelines.config")
    assert "pandas" in loaded
    assert loaded & {"torch", "torchvision", "fastai", "timm", "matplotlib", "nvidia"} == set()


def test_the_process_that_tries_dali_before_a_training_loads_no_torch():
    if not is_installed("nvidia.dali"):
        pytest.skip("DALI is not installed")
    loaded = loaded_after("import busfast.pipelines.dali_check, busfast.pipelines.dali_loader")
    assert "nvidia.dali" in loaded and "torch" not in loaded


# What evaluates, explains, exports, serves, searches or tracks, and what reads or augments in another way.
LATER = {"busfast.results", "busfast.inference", "busfast.demo", "busfast.sweep", "busfast.training.lr_find",
         "busfast.training.trackers.base", "busfast.pipelines.accelerate", "busfast.pipelines.dali_loader",
         "onnx", "onnxruntime", "onnxscript", "jinja2", "gradio", "optuna", "tensorboard", "mlflow",
         "wandb.sdk", "accelerate", "pydicom", "openpyxl", "cv2", "IPython", "nvidia.dali", "fastai.vision.all",
         "fastai.vision.learner", "torch.utils.tensorboard", "sklearn.linear_model"}


def test_a_training_has_loaded_nothing_that_comes_after_its_first_batch(workdir):
    (workdir / "stop.py").write_text("def stop(i, batch):\n    print('first batch')\n    raise KeyboardInterrupt\n"
                                     "def learner(learn):\n    learn.one_batch = stop\n")
    code = "from busfast.cli import main\nassert main(['train', '--learner=stop.py']) == 130"
    loaded = loaded_after(code, workdir)
    assert {"busfast.training.fit", "fastai.learner", "timm", "torch"} <= loaded
    assert loaded & LATER == set()


def test_setup_names_exactly_the_packages_that_exist():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    named = setup["options"]["packages"].split()
    assert sorted(named) == sorted(module for module, path in FILES.items() if path.name == "__init__.py")
    assert sorted(named) == sorted({module_of(path.parent / "__init__.py") for path in FILES.values()})
