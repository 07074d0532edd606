"""The documents are promises: their commands run, their files are there, their code is Python.

Each line of a block of code that is a command of busfast is run here, page by page, in the page's order, on small
phantoms; what cannot be run stands in NOT_RUN, with the reason. Those, and commands in a sentence, must be ones that
busfast takes, with values that it takes. Commands of others must be of a kind that stands in OTHERS.
"""

import configparser
import re
import shlex
import shutil
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest

from busfast.bench import WHATS
from busfast.cli import THEN, VERBS, main
from busfast.cli.parse import check
from busfast.data import SPLITS
from busfast.data.external_splits import is_list_path
from busfast.data.sources import SOURCES
from busfast.errors import choose
from busfast.pipelines.config import PRESETS, Config
from busfast.results.export import FORMATS

ROOT = Path(__file__).parents[1]
MADE = [ROOT / "docs" / "reference" / f"{name}.md" for name in ("cli", "pipeline", "python")]  # of what --help shows
PAGES = [page for page in (*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("*/README.md")),
                           *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("docs/*/*.md"))) if page not in MADE]
LAUNCHERS = r"(?:[A-Z_]+=\S+ )*(?:busfast|(?:python|torchrun|accelerate launch)(?: [^`\n]*)? -m busfast) "
SEVERAL = ("torchrun", "accelerate")  # not run here, but by tests/training/distributed/test_distributed.py

# What is not run, by a part of the line, and why not.
NOT_RUN = {
    "bench ": "takes minutes; tests/bench/test_bench.py measures small ones",
    "demo ": "serves until it is stopped; tests/demo/test_demo.py asks it",
    "prepare --source=bus": "needs the public sets; tests/data/test_prepare.py makes small ones",
    "sweep": "twenty trainings; tests/sweep/test_sweep.py sweeps small ones",
    "--seeds=": "five trainings; tests/results/test_run_groups.py trains small ones",
    "--jobs=": "starts processes; tests/results/test_run_groups.py starts two",
    "ensemble": "needs those runs; tests/results/test_run_groups.py makes ensembles of others",
    "--tracker=": "three packages that not everybody has; tests/training/trackers/test_trackers.py tries each",
    "path/to/": "lists that somebody else made; tests/data/test_external_splits.py makes some",
}
# Commands of others, and what must be there for them.
OTHERS = {
    r"make (\w+)": lambda target: f"\n{target}:" in (ROOT / "Makefile").read_text(),
    r"pip install -e \"\.\[(\w+)\]\"": lambda extra: extra in setup()["options.extras_require"],
    r"python -m pytest (.*)": lambda words: all((ROOT / word).exists() for word in words.split() if "--" not in word),
    r"python -m (busfast\.[\w.]+).*": find_spec,
    r"python (\S+\.py).*": lambda file: (ROOT / file).is_file(),
    r"git clone URL-OF-THIS-REPOSITORY busfast && cd (busfast)": bool,
    r"source (\.venv)/bin/activate": bool,
}
LISTED = {"split": (*SPLITS, "all"), "source": SOURCES, "format": FORMATS, "then": THEN, "preset": PRESETS,
          "engine": ("torch", "onnx")}


def setup():
    found = configparser.ConfigParser()
    found.read(ROOT / "setup.cfg", encoding="utf-8")
    return found


def commands(page):
    """The commands in a page's blocks of code, in their order, without comments."""
    text = re.sub(r"^```(?!sh\n)\w+\n.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)  # Python, YAML
    for block in re.findall(r"^```(?:sh)?\n(.*?)^```$|((?:^    [^\n]*\n)+)", text, re.DOTALL | re.MULTILINE):
        for line in "".join(block).replace("\\\n", " ").splitlines():
            line = " ".join(line.partition(" # ")[0].split())
            if re.match(rf"{LAUNCHERS}|(?:python|make|pip|git|source) ", line) or re.search(r" --\w", line):
                yield line


def inline(page):
    """The commands of busfast in a page's sentences."""
    return re.findall(rf"`({LAUNCHERS}[^`]*)`", page.read_text())


def words_of(line):
    """The words after `busfast`; none of a command of others."""
    found = re.match(rf"{LAUNCHERS}(.*)", line)
    return shlex.split(found[1]) if found else []


def name_of(page):
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_in_the_documents_is_one_that_is_there(page):
    for line in commands(page):
        if not words_of(line):
            kinds = [there(found[1]) for kind, there in OTHERS.items() if (found := re.fullmatch(kind, line))]
            assert kinds, f"{line}: no command of busfast, and of no kind in OTHERS"
            assert kinds[0], line
    for words in map(words_of, (*commands(page), *inline(page))):
        if words and words[0] not in ("VERB", "..."):
            check(VERBS, [word for word in words if word != "--help"])
            check_values(*words)


def check_values(verb, *words):
    """Refuses values that a flag does not take; those in capitals, such as FOLDER, stand for others."""
    given = dict(word[2:].replace("-", "_", 1).split("=", 1) for word in words if word.startswith("--") and "=" in word)
    given = {flag: value for flag, value in given.items() if not re.fullmatch(r"[A-Z][A-Z_/,]*", value)}
    for flag, choices in LISTED.items():
        if flag in given and not is_list_path(given[flag]):
            for value in given[flag].split(","):
                choose(flag, value, choices)
    Config(**{flag: value for flag, value in given.items() if flag in {*Config.__annotations__} - {*LISTED} and
              value != "auto"})
    if verb == "bench" and words[0] != "WHAT":
        assert set(given) - {"out"} <= set(WHATS[choose("bench", words[0], WHATS)])


@pytest.fixture(scope="module")
def lived_in(exported_once, tmp_path_factory):
    """A folder in which everything lies that the documents speak of: data/bus, images in class folders, runs."""
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
    for name in ("bus", "mine", "FOLDER"):
        (place / "pipelines" / f"{name}.yaml").write_text(small.replace("data/phantom", f"data/{name}"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for split in ("stratified", "center_holdout"):
            assert main(f"train --data=data/bus --split={split} --then=evaluate".split()) == 0
    return place


SLOW, DONE = ("train", "explain", "report"), set()  # these lines are not run again for another page


@pytest.mark.parametrize("page", [page for page in PAGES if any(map(words_of, commands(page)))], ids=name_of)
def test_every_command_of_a_page_runs(page, lived_in, tmp_path, monkeypatch, capsys):
    shutil.copytree(lived_in, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    monkeypatch.setenv("BUSFAST_CACHE", str(tmp_path / "cache"))
    for line in commands(page):
        words = words_of(line)
        runs = words and words[0] in VERBS and not any(part in line for part in (*NOT_RUN, *SEVERAL))
        if runs and {*words} not in DONE:
            assert main(words) == 0, f"{line}\n{capsys.readouterr().err}\nIf it cannot run here: NOT_RUN"
            DONE.update({frozenset(words)} if words[0] in SLOW else ())


@pytest.mark.parametrize("part", NOT_RUN)
def test_what_is_not_run_stands_in_a_document(part):
    assert any(part in line for page in PAGES for line in commands(page))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_to_a_file_leads_to_one(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", page.read_text()):
        assert (page.parent / target).exists() or (page.parent / target).resolve() in MADE, target


@pytest.mark.parametrize("page", [page for page in PAGES if "```python\n" in page.read_text()], ids=name_of)
def test_the_python_in_the_documents_compiles(page):
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        compile(block, page, "exec")
