"""A pipeline file holds plain values and is read within seconds, whatever it holds.

Covers busfast/yamlfile.py; see also tests/pipelines/test_config.py.
"""

import time
from pathlib import Path

import pytest
import yaml

from busfast.errors import UserError
from busfast.pipelines.pipeline_file import load_config
from busfast.training.runs import write_record
from busfast.yamlfile import MAX_BYTES, read_yaml
from security.hostile import RESULTS, RUN, refused

LAUGHS = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]",
          *(f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 10)}]" for number in range(1, 16))]
FILES = {
    "a million laughs": "\n".join([*LAUGHS, "classes: *a15"]),
    "laughs as a number": "\n".join(LAUGHS).replace("a15:", "epochs:"),
    "laughs as the record of a run": "\n".join(LAUGHS).replace("a15:", "run:"),
    "maps of maps": "\n".join(["b0: &b0 {x: y}", *(f"b{n}: &b{n} {{{', '.join(f'k{m}: *b{n - 1}' for m in range(9))}}}"
                                                    for n in range(1, 16))]),
    "a list in itself": "classes: &a [benign, *a]",
    "a map in itself": "run: &a {pipeline: *a}",
    "merged": "a: &a {epochs: 1}\n<<: *a",
    "many keys": "\n".join(f"k{number}: 1" for number in range(19_000)),
    "deep": "classes: " + "[" * 300 + "]" * 300,
    "deeper": "classes: " + "[" * 90_000,
    "a number of base 60": "seed: " + "1:" * 90_000 + "1",
    "a float of base 60": "lr: " + "1:" * 190 + "1.5",
    "a long number": "seed: 0x" + "f" * 100_000,
    "a number that Python does not print": "seed: 0b" + "1" * 390 + "\nlr: 0x" + "f" * 390,
    "an hour before the first": "seed: 0001-01-01T00:00:00+23:59",
    "a date": "epochs: 2024-02-28",
    "bytes": "seed: !!binary aGVsbG8=",
    "a set": "classes: !!set {a, b}",
    "the tag of a name": "arch: !!python/name:os.system",
    "the tag of a call": "arch: !!python/object/apply:pathlib.Path.touch [ran]",
    "the tag of a module": "arch: !!python/module:antigravity",
    "the tag of an object": "arch: !!python/object/new:pathlib.Path {args: [ran]}",
    "a tuple": "classes: !!python/tuple [a, b]",
    "large": "# " + "x" * MAX_BYTES,
    "a program's name": "arch: hf-hub:evil/model\nepochs: x",
}


@pytest.mark.parametrize("name", FILES)
def test_a_pipeline_file_is_refused_within_seconds(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path("p.yaml").write_text(FILES[name])
    began = time.process_time()
    with pytest.raises(UserError) as refusal:
        load_config("p.yaml")
    assert time.process_time() - began < 5  # what would fill the memory takes longer
    assert len(str(refusal.value)) < 20_000
    assert "p.yaml" in str(refusal.value)
    assert list(Path().iterdir()) == [Path("p.yaml")]


def test_a_gigabyte_is_not_read(tmp_path):
    with open(tmp_path / "p.yaml", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(UserError, match="larger than 200,000 bytes"):
        read_yaml(tmp_path / "p.yaml")


def test_aliases_that_busfast_itself_writes_are_read(tmp_path):
    same = [0.5, 0.5, 0.5]
    write_record(tmp_path / "r.yaml", {"weights": {"mean": same, "std": same}})
    assert "*id001" in (tmp_path / "r.yaml").read_text()
    assert read_yaml(tmp_path / "r.yaml") == {"weights": {"mean": same, "std": same}}


@pytest.mark.parametrize("arch", ["hf-hub:some/resnet18.a1_in1k", "local-dir:/tmp", "../resnet18", "timm/../resnet18",
                                  "resnet18.nothing"])
def test_a_pipeline_file_names_a_model_of_timm_and_no_place(exported_run, arch, capsys):
    text = Path("pipelines/phantom.yaml").read_text()
    Path("pipelines/phantom.yaml").write_text(yaml.safe_dump(yaml.safe_load(text) | {"arch": arch}))
    assert f"Unknown model '{arch}'" in refused("train", capsys)


@pytest.mark.parametrize("weights", ["5", "{}", "{mean: [1, 2], std: [1, 2, 3]}", "{mean: [a, b, c], std: [1, 1, 1]}",
                                     "{mean: [0, 0, 0], std: [0, 1, 1]}", "{mean: [.nan, 0, 0], std: [1, 1, 1]}"])
def test_a_run_that_does_not_say_how_images_are_normalised_is_refused(exported_run, weights, capsys):
    config = yaml.safe_load((RESULTS / "config.yaml").read_text())
    config["run"]["weights"] = yaml.safe_load(weights)
    (RESULTS / "config.yaml").write_text(yaml.safe_dump(config))
    assert "no valid normalization" in refused(f"predict data/phantom --run={RUN} --out=out.csv", capsys)


@pytest.mark.parametrize("history", ["5", "[5]", "[{when: now}]", "{a: 1}"])
def test_a_record_of_evaluations_that_is_none_is_refused(exported_run, history, capsys):
    (RESULTS / "evaluation.yaml").write_text(f"evaluations: {history}\n")
    assert "does not list when" in refused(f"report --run={RUN}", capsys)
