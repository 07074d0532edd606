"""A model or input that is misspelt is refused by name, with the nearest, before torch is imported."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from busfast.cli import main
from busfast.errors import UserError
from busfast.inference.find_model import find_bundle, find_model


@pytest.fixture
def exported(tmp_path, monkeypatch):
    """A folder with a run, what stands for its bundle, and an image."""
    monkeypatch.chdir(tmp_path)
    for name in ("models/mine/stratified/bundle/bundle.json", "results/mine/stratified/config.yaml", "scans/a.png",
                 "models/mine/stratified/best.pth"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("classes: [a, b]\n")


def test_a_bundle_is_found_in_its_folder_and_in_that_of_its_run(exported):
    assert find_bundle("models/mine/stratified") == find_bundle("models/mine/stratified/bundle")


@pytest.mark.parametrize(("path", "message"), [
    ("models/mine/stratifid/bundle", "There is no model 'models/mine/stratifid/bundle'. Did you mean "
                                     "'models/mine/stratified/bundle'? Exported models here: models/mine/stratified/b"),
    ("mine/stratified", "There is no model 'mine/stratified'. Did you mean 'models/mine/stratified'?"),
    ("elsewhere", "There is no model 'elsewhere'. Exported models here: models/mine/stratified/bundle."),
    ("scans", "'scans' is not a bundle: it has no bundle.json."),
    ("scans/a.png", "--run=RUN. To export one: python -m busfast export --run=RUN"),
    ("models/mine/stratified/best.pth", "is a pickle: loading it runs any code in it")])
def test_what_is_no_model_is_refused_with_what_to_type(exported, path, message):
    with pytest.raises(UserError) as refusal:
        find_model(path)
    assert message in str(refusal.value)


def test_an_engine_that_is_unknown_or_was_not_exported_is_refused(exported):
    with pytest.raises(UserError, match="Unknown engine 'onxx'. Did you mean 'onnx'?"):
        find_model("models/mine/stratified", "onxx")
    with pytest.raises(UserError, match="has no model.onnx. Export it with --format=onnx"):
        find_model("models/mine/stratified", "onnx")


@pytest.mark.parametrize(("line", "message"), [
    ("predict scan --run=mine/stratified", "There is no file or folder 'scan'. Did you mean 'scans'?"),
    ("predict scans --model=mine/stratified --out=scans/a.png", "There is no model 'mine/stratified'."),
    ("predict scan --model=models/mine/stratified --out=scans/a.png", "There is no file or folder 'scan'."),
    ("predict scans --model=models/mine/stratified --out=scans/a.png", "scans/a.png already exists"),
    ("predict scans --run=models/mine/stratified/bundle", "is no run but an exported model: --model=models/mine/strat"),
    ("predict scans --run=mine/stratified --jobs=0", "jobs=0 is out of range"),
    ("explain --run=mine/stratified --images=scan", "There is no file or folder 'scan'. Did you mean 'scans'?"),
    ("export --run=mine/stratified --format=onx", "Unknown format 'onx'. Did you mean 'onnx'?"),
    ("export --run=mine/stratified --target=2", "target=2 is no sensitivity"),
    ("export --run=mine/stratified --positive=bb", "Unknown class 'bb'. Did you mean 'b'?"),
    ("demo --model=models/mine/stratified --port=0 --host=999.0.0.1", "Cannot listen at --host=999.0.0.1")])
def test_wrong_values_are_refused_in_the_order_of_their_flags(exported, line, message, capsys, monkeypatch):
    monkeypatch.setattr("busfast.demo.require_package", lambda *_: None)  # as if Gradio were installed
    assert main(line.split()) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("facts", "words", "message"), [
    ({"operating_points": [{"target": 0.9}]}, "--target=0.8", "only for 0.9. To have one: python -m busfast export"),
    ({"operating_points": []}, "--target=0.8", "Evaluate its run, then: python -m busfast export"),
    ({"operating_points": [{"target": None}], "label_delim": ";"}, "--target=0.8", "several"),
    ({"operating_points": [], "label_delim": ";"}, "", "The demo is for images of one label")])
def test_a_sensitivity_that_a_bundle_lacks_is_refused_before_gradio_is_asked_for(exported, facts, words, message,
                                                                                capsys, monkeypatch):
    monkeypatch.setattr("busfast.demo.require_package", lambda *_: pytest.fail("asked for Gradio"))
    Path("models/mine/stratified/bundle/bundle.json").write_text(json.dumps(facts))
    for line in ("demo", "predict scans") if words else ("demo",):
        assert main([*line.split(), "--model=models/mine/stratified", *words.split()]) == 2
        assert message in capsys.readouterr().err


def test_none_of_these_refusals_imports_torch(exported):
    Path("models/lacks").mkdir()
    Path("models/lacks/bundle.json").write_text('{"operating_points": [{"target": 0.9}]}')
    lines = ["predict scans --model=models/lacks --target=0.8", "demo --model=models/lacks --target=0.8",
             "predict scan --run=mine/stratified", "predict scans --model=models/mine/stratified --out=scans/a.png",
             "predict scans --model=mine", "explain --run=mine/stratified --images=scan",
             "export --run=mine/stratified --format=onx", "export --run=mine/stratified --target=2"]
    code = f"""import sys
from busfast.cli import main
print(*(main(line.split()) for line in {lines}), {{"torch", "timm", "fastai"}} & {{*sys.modules}})"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "2 " * len(lines) + "set()", done.stderr
