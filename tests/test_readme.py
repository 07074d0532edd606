"""The documents are promises: their commands run, the files and names they mention exist, their Python compiles.

Every busfast command in a code block is run once, in the order of the pages, on small phantoms in one shared folder.
What cannot run is listed in NOT_RUN with the reason. Those, and commands within a sentence, must have a verb, flags and
values that busfast accepts. Commands of other programs must be of a kind listed in OTHERS.
"""

import configparser
import pkgutil
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from busfast.bench import WHATS
from busfast.cli import VERBS, main
from busfast.cli.parse import check
from busfast.cli.train import THEN
from busfast.data import SPLITS
from busfast.data.external_splits import is_list_path
from busfast.data.sources import SOURCES
from busfast.demo.page import INSTALL
from busfast.errors import choose
from busfast.pipelines.config import PRESETS, Config
from busfast.results.export import FORMATS

ROOT = Path(__file__).parents[1]
GENERATED = [ROOT / "docs" / "reference" / f"{name}.md" for name in ("cli", "pipeline", "python")]
PAGES = [page for page in (*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("*/README.md")),
                           *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("docs/*/*.md"))) if page not in GENERATED]
LAUNCHERS = r"(?:[A-Z_]+=\S+ )*(?:busfast|(?:python|torchrun|accelerate launch)(?: [^`\n]*)? -m busfast) "
SEVERAL = ("torchrun", "accelerate")  # run by tests/training/distributed/test_distributed.py instead

# Part of a line -> why it is not run here.
NOT_RUN = {
    "audit --labels": "trains five folds; tests/results/test_label_audit.py audits labels",
    "--folds=4": "the four trainings of an audit of labels",
    "audit --run=": "needs those folds; tests/results/test_label_audit.py has some",
    "bench ": "takes minutes; tests/bench/test_bench.py measures small ones",
    "data/copies": "a phantom with copies, which docs/make_screenshots.py makes",
    "alpha_0065_3": "an image of the phantom of 640 images; the tests' one is smaller",
    "demo ": "serves until it is stopped; tests/demo/test_demo.py sends requests to it",
    "prepare --source=bus": "needs the public sets; tests/data/test_prepare.py makes small ones",
    "prepare --source=csv": "needs tables of the user's; tests/data/sources/test_csv_table.py makes some",
    "sweep": "twenty trainings; tests/sweep/test_sweep.py sweeps small ones",
    "--seeds=": "five trainings; tests/results/test_run_groups.py trains small ones",
    "--jobs=": "starts processes; tests/results/test_run_groups.py starts two",
    "ensemble": "needs those runs; tests/results/test_run_groups.py makes ensembles of others",
    "--label_delim=": "needs images of several labels; tests/results/test_multi_label.py makes some",
    "--learner=": "needs a file of the user's; tests/training/test_user_learner.py writes some",
    "--tracker=": "needs three optional packages; tests/training/trackers/test_trackers.py tries each",
    "path/to/": "needs lists made elsewhere; tests/data/test_external_splits.py makes some",
}
# Commands of other programs, and what must exist for them.
OTHERS = {
    r"make ([\w-]+)": lambda target: f"\n{target}:" in (ROOT / "Makefile").read_text(),
    r"pip install -e \"\.\[(\w+)\]\"": lambda extra: extra in setup()["options.extras_require"],
    r"(pip install 'gradio>=.*')": lambda line: line == INSTALL,
    r"python -m pytest (.*)": lambda args: all((ROOT / arg).exists() for arg in args.split() if "--" not in arg),
    r"python (\S+\.py).*": lambda file: (ROOT / file).is_file(),
    r"source (\.venv)/bin/activate": bool,
}
CHOICES = {"split": (*SPLITS, "all"), "source": SOURCES, "format": FORMATS, "then": (*THEN, "all"), "preset": PRESETS,
           "engine": ("torch", "onnx")}


def setup():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def commands(page):
    """The commands in a page's code blocks, in order, without comments."""
    text = re.sub(r"^```(?!sh\n)\w+\n.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)  # Python, YAML
    for block in re.findall(r"^```(?:sh)?\n(.*?)^```$|((?:^    [^\n]*\n)+)", text, re.DOTALL | re.MULTILINE):
        for line in "".join(block).replace("\\\n", " ").splitlines():
            line = " ".join(line.partition(" # ")[0].split())
            if re.match(rf"{LAUNCHERS}|(?:python|make|pip|git|source|cd) |[^#]* --\w", line):
                yield line


def inline(page):
    """The busfast commands in a page's sentences."""
    return re.findall(rf"`({LAUNCHERS}[^`]*)`", page.read_text())


def busfast_args(line):
    """The arguments after `busfast`; none for another program's command."""
    match = re.match(rf"{LAUNCHERS}(.*)", line)
    return shlex.split(match[1]) if match else []


def runnable(page):
    """The busfast commands of a page that can run here, as (line, arguments)."""
    for line in commands(page):
        args = busfast_args(line)
        if args and args[0] in VERBS and not any(part in line for part in (*NOT_RUN, *SEVERAL)):
            yield line, args


def name_of(page):
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_in_the_documents_exists(page):
    for line in commands(page):
        if not busfast_args(line):
            kinds = [exists(match[1]) for kind, exists in OTHERS.items() if (match := re.fullmatch(kind, line))]
            assert kinds, f"{line}: not a busfast command, and of no kind in OTHERS"
            assert kinds[0], line
    for args in map(busfast_args, (*commands(page), *inline(page))):
        if args and args[0] not in ("VERB", "..."):
            check(VERBS, [arg for arg in args if arg != "--help"])
            check_values(*args)


def check_values(verb, *args):
    """Refuses values that a flag does not take; values in capitals, such as FOLDER, are placeholders."""
    flags = dict(arg[2:].replace("-", "_", 1).split("=", 1) for arg in args if arg.startswith("--") and "=" in arg)
    flags = {flag: value for flag, value in flags.items() if not re.fullmatch(r"[A-Z][A-Z_/,]*", value)}
    for flag, choices in CHOICES.items():
        if flag in flags and not is_list_path(flags[flag]):
            for value in flags[flag].split(","):
                choose(flag, value, choices)
    Config(**{flag: value for flag, value in flags.items() if flag in {*Config.__annotations__} - {*CHOICES} and
              value != "auto"})
    if verb == "bench" and args[0] != "WHAT":
        assert set(flags) - {"out"} <= set(WHATS[choose("bench", args[0], WHATS)])


@pytest.fixture(scope="module")
def workplace(exported_once, tmp_path_factory):
    """The working folder, with everything that the documents mention: data/bus, class folders in IMAGES, runs."""
    place = tmp_path_factory.mktemp("documents") / "place"
    shutil.copytree(exported_once, place)  # data/phantom, its run, a bundle
    shutil.copytree(place / "data" / "phantom", place / "data" / "bus")
    shutil.copytree(place / "data" / "phantom", place / "FOLDER")
    table = pd.read_csv(place / "data" / "bus" / "table.csv")
    table["center"] = table["center"].map(dict(alpha="BUSI", beta="BUS-BRA", gamma="BUS-UCLM"))
    table.to_csv(place / "data" / "bus" / "table.csv", index=False)
    for label, image in zip(table["label"], table["image"], strict=True):
        (place / "IMAGES" / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(place / "data" / "bus" / image, place / "IMAGES" / label)
    small = (place / "pipelines" / "phantom.yaml").read_text().replace("source: phantom\n", "")
    for name in ("bus", "mine", "FOLDER", "IMAGES"):
        (place / "pipelines" / f"{name}.yaml").write_text(small.replace("data/phantom", f"data/{name}"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("BUSFAST_CACHE", str(place.with_name("cache")))
        assert main(["train", "--data=data/bus", "--split=stratified"]) == 0
        yield place


DONE = set()  # argument sets of commands that ran: a command that several pages have runs once


@pytest.mark.parametrize("page", [page for page in PAGES if any(runnable(page))], ids=name_of)
def test_every_command_of_a_page_runs(page, workplace, capsys):
    for line, args in runnable(page):
        if frozenset(args) not in DONE:
            assert main(args) == 0, f"{line}\n{capsys.readouterr().err}\nIf it cannot run here: NOT_RUN"
            DONE.add(frozenset(args))


def test_what_the_demo_needs_is_installed_in_one_way_wherever_it_is_started():
    assert INSTALL.split("'")[1] == setup()["options.extras_require"]["demo"].replace(" ", "").strip()
    assert INSTALL in (ROOT / "README.md").read_text()
    for lines in map(list, map(commands, PAGES)):
        for place, line in enumerate(lines):
            assert busfast_args(line)[:1] != ["demo"] or lines[place - 1] == INSTALL


@pytest.mark.parametrize("part", NOT_RUN)
def test_every_exception_is_still_needed(part):
    assert any(part in line for page in PAGES for line in commands(page))


def test_the_set_up_commands_of_the_readme_run_where_it_is():
    lines = [line for line in commands(ROOT / "README.md") if not busfast_args(line)]
    assert lines[:2] == ["make train", "source .venv/bin/activate"]
    subprocess.run(["make", "--dry-run", "train"], cwd=ROOT, check=True, capture_output=True)
    for words, index in (((), False), (("CPU=1",), True)):
        done = subprocess.run(["make", "--dry-run", "install", "VENV=/nowhere", *words], cwd=ROOT, check=True,
                              capture_output=True, text=True)
        assert ("--index-url https://download.pytorch.org/whl/cpu torch torchvision" in done.stdout) == index
    assert not any("clone" in line for page in PAGES for line in commands(page))  # it has no public address


def test_the_readme_is_short_and_says_early_that_it_is_for_research():
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) <= 900
    assert "not a medical device" in " ".join(text.split()[:80])


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_to_a_file_leads_to_one(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", page.read_text()):
        assert (page.parent / target).exists() or (page.parent / target).resolve() in GENERATED, target


FILES = {f"/{path.relative_to(ROOT).as_posix()}" for folder in ("busfast", "tests", "benchmarks", "docs")
         for path in (ROOT / folder).rglob("*.py")}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_file_folder_and_name_of_the_code_that_a_page_mentions_exists(page):
    text = page.read_text()
    spans = set(re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)))
    files = {name for span in spans for name in re.findall(r"[a-z0-9_/]+\.py\b", span)}
    assert [name for name in files if not any(file.endswith(f"/{name}") for file in FILES)] == []
    folders = {name for name in spans if re.fullmatch(r"(?:busfast|tests|benchmarks)/[\w/]*", name)}
    assert [name for name in folders if not (ROOT / name).is_dir()] == []
    for name in re.findall(r"\b(?<!/)busfast\.(?!csv|yaml)[a-z_]+[\w.]*\w", text):
        pkgutil.resolve_name(name)
    for names, file in re.findall(r"(`\w+`(?: and `\w+`)?) in\s`([\w/]+\.py)`", text):
        code = "".join(path.read_text() for path in (ROOT / file, ROOT / "busfast" / file) if path.is_file())
        assert [name for name in re.findall(r"\w+", names.replace(" and ", " ")) if name not in code] == [], file


@pytest.mark.parametrize("page", [page for page in PAGES if "```python\n" in page.read_text()], ids=name_of)
def test_the_python_in_the_documents_compiles(page):
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        compile(block, page, "exec")
