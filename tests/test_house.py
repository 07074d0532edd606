"""What the house promises: floors that import downwards only, heavy things in one place, a help that starts at once."""

import ast
import configparser
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[1]
PACKAGE = HOUSE / "busfast"
FLOORS = ("base", "data", "pipelines", "models", "results", "cli")  # a room imports its own floor or lower ones
BASE = ("busfast", "busfast.errors", "busfast.files", "busfast.processes", "busfast.progress", "busfast.words")
HEAVY = ("torch", "torchvision", "fastai", "timm", "pandas", "numpy", "matplotlib", "nvidia", "sklearn", "scipy", "PIL")


def module_of(path):
    parts = path.relative_to(HOUSE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def floor_of(module):
    if module in BASE:
        return "base"
    room = module.split(".")[1]
    return room if room in FLOORS else "cli"


def imports_of(module):
    """Every module that a file imports, wherever in it; a function's or class's own module, not its name."""
    path, found = FILES[module], set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
                base = ".".join([*package[:len(package) - node.level + 1], *([node.module] if node.module else [])])
            names = {f"{base}.{alias.name}" for alias in node.names}
            # `from nvidia import dali` and `from busfast.data import images` import a module, not a name in one.
            found |= {name if name in FILES or not base.startswith("busfast") else base for name in names}
    return found


def own_imports_of(module):
    return {name for name in imports_of(module) if name.split(".")[0] == "busfast"}


def importers_of(library):
    """The files that import a library or anything in it."""
    return [module for module in FILES if any(f"{name}.".startswith(f"{library}.") for name in imports_of(module))]


def test_the_imports_are_seen():
    assert "busfast.data.table" in imports_of("busfast.data.split")
    assert "busfast.results.train" in imports_of("busfast.cli")  # inside a function
    assert {floor_of(module) for module in FILES} == set(FLOORS)


@pytest.mark.parametrize("module", FILES)
def test_a_file_imports_its_own_floor_or_lower_ones(module):
    allowed = FLOORS[:FLOORS.index(floor_of(module)) + 1]
    assert [name for name in own_imports_of(module) if floor_of(name) not in allowed] == []


def test_every_import_of_busfast_names_a_file_of_it():
    assert {name for module in FILES for name in own_imports_of(module)} <= set(FILES)


def test_no_modules_import_each_other_in_a_circle():
    circle = []
    try:
        TopologicalSorter({module: own_imports_of(module) - {module} for module in FILES}).prepare()
    except CycleError as error:
        circle = error.args[1]
    assert circle == []


@pytest.mark.parametrize(("library", "module"), [("nvidia", "busfast.pipelines.dali_loader"), ("fire", "busfast.line"),
                                                 ("gradio", "busfast.results.demo.page")])
def test_a_library_that_is_kept_apart_is_imported_in_one_file(library, module):
    assert importers_of(library) == [module]


@pytest.mark.parametrize("library", ["torch", "torchvision", "fastai", "timm"])
def test_data_needs_no(library):
    assert [module for module in importers_of(library) if floor_of(module) in ("base", "data")] == []


def public_functions(module):
    """Public functions of a module, and methods of its public classes that follow no other library's."""
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node, node.args.posonlyargs + node.args.args + node.args.kwonlyargs
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and not node.bases:
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and (method.name == "__init__" or method.name[0] != "_"):
                    yield method, (method.args.posonlyargs + method.args.args)[1:] + method.args.kwonlyargs


@pytest.mark.parametrize("module", [name for name in FILES if not name.startswith("busfast.results.bench.")])
def test_a_public_function_says_the_types_of_all_that_it_takes_and_returns(module):
    assert [f"{one.name}({argument.arg})" for one, arguments in public_functions(module) for argument in arguments
            if argument.annotation is None] == []
    assert [one.name for one, _ in public_functions(module) if one.returns is None and one.name != "__init__"] == []


def loaded_after(code):
    """The top-level modules that a fresh Python has loaded after running `code`."""
    code += "\nimport sys\nprint('loaded:', *{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=HOUSE, capture_output=True, text=True, check=True)
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


def test_setup_names_exactly_the_packages_that_exist():
    setup = configparser.ConfigParser()
    setup.read(HOUSE / "setup.cfg", encoding="utf-8")
    named = setup["options"]["packages"].split()
    assert sorted(named) == sorted(module for module, path in FILES.items() if path.name == "__init__.py")
    assert sorted(named) == sorted({module_of(path.parent / "__init__.py") for path in FILES.values()})
