"""A bundle from somebody else: refused in a sentence whatever is in it, before it fills the memory."""

import hashlib
import json
import math
import os
import shutil
import struct
import time
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.numpy import save as write_arrays
from safetensors.torch import load_file, save_file

from busfast.cli import main
from busfast.inference.load_bundle import load_bundle, read_facts
from busfast.inference.predictor import NOT_FINITE
from security.hostile import BUNDLE, DATA, RUN, images, refused, resign

PREDICT = f"predict {DATA}/images --model={BUNDLE} --out=out.csv"
FACTS, WEIGHTS = BUNDLE / "bundle.json", BUNDLE / "weights.safetensors"


def change(**changes):
    FACTS.write_text(json.dumps(json.loads(FACTS.read_text()) | changes))


def deep(levels):
    return "[" * levels + "]" * levels


WRONG = {  # key -> values that it may not have
    "format": ["busfast", None, 1, []], "version": ["2.0", "3.0", "4.0", "5.0", 1.0, None, [[1]], "0.9"],
    "classes": ["ab", {}, [], ["a"], ["a", "a"], ["a", 1], [["a"], ["b"]], ["=cmd()", "b"], ["../x", "b"], ["a", "b\n"],
                ["<b>", "b"], ["a", "b"], ["a,b", "c"], ["\ud800", "b"], ["@x", "y", "z"],
                [f"c{n}" for n in range(10_001)]],
    "architecture": [None, "", "hf-hub:timm/resnet18.a1_in1k", "hf_hub:timm/resnet18", "local-dir:/tmp", "../resnet18",
                     "/etc/passwd", "no_such_model", "resnet18", "test_efficientnet.no_such_tag", "a" * 10**6,
                     "resnet18\n"],
    "input": [None, [], {}, {"size": 64}],
    "temperature": [0, -1, "1", True, [], 10**400],
    "operating_points": [None, {}, "", [1], [{}], [{"class": "x", "target": 1, "threshold": 1, "test": 0}], 5],
    "files": [None, [], {}, {"weights.safetensors": None}, {"weights.safetensors": 5},
              {"../weights.safetensors": "0" * 64}, {"weights.safetensors": "0" * 64, "/etc/passwd": ""},
              {"weights.safetensors": "0" * 64, "evil.pkl": "0" * 64}],
    "unknown key": [1], "__class__": ["x"]}
MESSAGES = {  # key -> one of these values, and what its message says
    "version": ("5.0", "version 5.0; this code reads 1.x and 2.x and 3.x and 4.x"),
    "input": ({"size": 64}, "must have exactly the keys"),
    "temperature": ("1", "temperature = 1 is not a number above 0"), "classes": (["a", "b"], "an operating point"),
    "architecture": ("hf-hub:timm/resnet18.a1_in1k", "has no model 'hf-hub:timm/resnet18.a1_in1k'"),
    "unknown key": (1, "the key 'unknown key' is unknown or missing")}


@pytest.mark.parametrize("key", WRONG)
def test_a_wrong_value_is_refused_in_a_sentence(exported_bundle, key, capsys):
    whole = FACTS.read_text()
    chosen, text = MESSAGES.get(key, (None, ""))
    for value in WRONG[key]:
        change(**{key: value})
        message = refused(PREDICT, capsys)
        assert "is refused: " in message, value
        assert len(message) < 1000 and message.count("\n") == 1
        assert value != chosen or text in message
        if key not in ("input", "operating_points", "temperature"):  # of which the model alone knows nothing
            with pytest.raises((ValueError, OSError)):
                load_bundle(BUNDLE)
        FACTS.write_text(whole)


def test_wrong_values_of_the_input_are_refused(exported_bundle, capsys):
    whole = json.loads(FACTS.read_text())["input"]
    for key, values in {"size": [0, 10**6, -1, None, 1.5, "x", [64]], "resize": ["x", 1, None],
                        "channels": [None, "cmyk"],
                        "mean": [None, [], [1, 2], [0, 0, "0"], 5, [10**400, 0, 0], "abc"],
                        "std": [[0, 1, 1], [-1, 1, 1], [[1], 1, 1]], "reading": [99, None, "1"], "other": [1]}.items():
        for value in values:
            change(input=whole | {key: value})
            assert "is refused: " in refused(PREDICT, capsys), (key, value)


@pytest.mark.parametrize("text", [
    pytest.param(deep(100_000), id="deep"), pytest.param(deep(900), id="rather deep"),
    pytest.param('{"a":' * 100_000, id="deep maps"), pytest.param("", id="empty"), pytest.param("[]", id="list"),
    pytest.param("NaN", id="NaN"), pytest.param('{"format": "busfast bundle", "format": 1}', id="key twice"),
    pytest.param("9" * 10_000, id="long number"), pytest.param("\ud800".encode("utf-8", "surrogatepass"), id="no text"),
    pytest.param("1e999", id="no finite number"), pytest.param('"' + "x" * 3_000_000 + '"', id="large")])
def test_a_file_that_is_no_bundle_json_is_refused(exported_bundle, text, capsys):
    FACTS.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError):
        read_facts(BUNDLE)
    assert "is refused: bundle.json" in refused(PREDICT, capsys)


def test_a_value_nested_in_a_bundle_json_is_refused(exported_bundle, capsys):
    for key in ("run", "metrics", "version", "input"):
        whole = FACTS.read_text()
        change(**{key: json.loads(deep(800))})
        assert "nested too deeply" in refused(PREDICT, capsys)
        FACTS.write_text(whole.replace('"temperature"', '"temperature": NaN, "other"'))
        assert "NaN is not a number" in refused(PREDICT, capsys)
        FACTS.write_text(whole)


@pytest.mark.parametrize("name", ["bundle.json", "weights.safetensors", "outlier.safetensors", "model.onnx"])
def test_a_terabyte_is_not_read_and_a_pipe_is_not_waited_for(exported_bundle, name, capsys):
    words = PREDICT + (" --engine=onnx" if name == "model.onnx" else "")
    os.truncate(BUNDLE / name, 2**40)  # takes no room on the disk
    assert name in (said := refused_unread(words, capsys)) and "bytes" in said
    (BUNDLE / name).unlink()
    if hasattr(os, "mkfifo"):
        os.mkfifo(BUNDLE / name)
        assert name in refused(words, capsys)
        (BUNDLE / name).unlink()
    (BUNDLE / name).mkdir()
    assert name in refused(words, capsys) or name != "bundle.json"


def refused_unread(words, capsys):
    """As `refused`, without reading what would not fit the memory."""
    assert main(words.split()) == 2
    return capsys.readouterr().err


def test_a_name_alone_does_not_fill_the_memory_with_a_giant_model(exported_bundle, capsys):
    change(architecture="vit_gigantic_patch14_clip_224")  # 7 GB, if it were made
    began = time.process_time()
    assert "does not fit vit_gigantic" in refused(PREDICT, capsys)
    assert time.process_time() - began < 10


def weights():
    return {name: value.clone() for name, value in load_file(WEIGHTS).items()}


@pytest.mark.parametrize("spoil", ["cut", "header of many bytes", "header that is none", "extra", "missing", "shape",
                                   "kind", "NaN", "infinite", "empty"])
def test_weights_that_are_not_the_models_are_refused(exported_bundle, spoil, capsys):
    state, data = weights(), WEIGHTS.read_bytes()
    name = next(name for name, value in state.items() if value.is_floating_point())
    if spoil in ("cut", "empty"):
        WEIGHTS.write_bytes(data[:len(data) // 2 if spoil == "cut" else 0])
    elif spoil.startswith("header"):
        length = 2**60 if spoil.endswith("bytes") else 20
        WEIGHTS.write_bytes(struct.pack("<Q", length) + data[8:])
    else:
        value = state.pop(name)
        save_file(state | {
            "shape": {name: value[:1].clone()}, "kind": {name: value.double()}, "NaN": {name: value * math.nan},
            "infinite": {name: value + math.inf}, "missing": {}, "extra": {name: value, "more": value.clone()}}[spoil],
            WEIGHTS)
    assert "weights.safetensors was changed since the export: its checksum differs" in refused(PREDICT, capsys)
    resign(BUNDLE)
    assert "is refused: weights.safetensors" in (message := refused(PREDICT, capsys))
    assert "does not fit" in message or spoil not in ("extra", "missing", "shape", "kind")
    with pytest.raises(ValueError, match="weights.safetensors"):
        load_bundle(BUNDLE)


def forge_ensemble(members=2, **changes):
    """Makes the bundle one of an ensemble of `members` times the same model, signed."""
    save_file({f"members.{number}.{name}": value.clone() for number in range(members)
               for name, value in load_file(WEIGHTS).items()}, WEIGHTS)
    resign(BUNDLE, **{"version": "2.0", "members": members} | changes)


def test_an_ensemble_of_one_model_says_what_that_model_says(exported_bundle):
    assert main(PREDICT.split()) == 0
    forge_ensemble(3)
    assert main([*PREDICT.split()[:-1], "--out=three.csv"]) == 0
    one, three = (pd.read_csv(name) for name in ("out.csv", "three.csv"))
    columns = [name for name in one if name.startswith("p_")]
    assert np.abs(one[columns].to_numpy() - three[columns].to_numpy()).max() < 1e-5
    assert one["outlier"].tolist() == pytest.approx(three["outlier"].tolist(), abs=1e-3)


@pytest.mark.parametrize("members", [0, 1, 3, 101, 10**9, -2, 2.0, "2", True, None, [], ["../evil", "/etc/passwd"], {}])
def test_a_wrong_number_of_members_is_refused_in_a_sentence(exported_bundle, members, capsys):
    forge_ensemble()
    change(members=members)
    assert "is refused: " in (said := refused(PREDICT, capsys)) and len(said) < 1000
    with pytest.raises(ValueError):
        load_bundle(BUNDLE)


def test_a_number_of_members_alone_does_not_fill_the_memory(exported_bundle, capsys):
    change(members=100, version="2.0", architecture="vit_gigantic_patch14_clip_224")  # 700 GB, if they were made
    began = time.process_time()
    assert "does not fit vit_gigantic" in refused(PREDICT, capsys)
    assert time.process_time() - began < 20


def test_the_version_says_whether_a_bundle_is_an_ensemble(exported_bundle, capsys):
    change(members=2)
    assert "the key 'members' is unknown" in refused(PREDICT, capsys)
    facts = json.loads(FACTS.read_text()) | {"version": "2.0"}
    del facts["members"]
    FACTS.write_text(json.dumps(facts))
    assert "the key 'members' is unknown or missing" in refused(PREDICT, capsys)
    change(members=2)
    assert "weights.safetensors does not fit" in refused(PREDICT, capsys)  # those of one model


@pytest.mark.parametrize("spoil", ["missing", "extra", "shape", "NaN", "not signed"])
def test_weights_that_are_not_the_members_are_refused(exported_bundle, spoil, capsys):
    forge_ensemble()
    state = weights()
    name = "members.1.conv_stem.weight"
    value = state.pop(name)
    save_file(state | {"missing": {}, "extra": {name: value, "members.2.conv_stem.weight": value.clone()},
                       "shape": {name: value[:1].clone()}, "NaN": {name: value * math.nan},
                       "not signed": {name: value + 1}}[spoil], WEIGHTS)
    assert "checksum differs" in refused(PREDICT, capsys)
    if spoil != "not signed":
        resign(BUNDLE)
        assert "is refused: weights.safetensors" in refused(PREDICT, capsys)


def test_an_outlier_score_of_another_model_is_refused(exported_bundle, capsys):
    outlier = {"mean": np.zeros(7), "directions": np.eye(7)[:2], "variances": np.ones(2), "rest": np.ones(1),
               "threshold": np.ones(1)}
    for changes in ({}, {"rest": np.zeros(1)}, {"mean": np.full(7, math.nan)}, {"more": np.ones(1)},
                    {"mean": np.zeros((7, 7))}):
        arrays = {name: value.astype(np.float32) for name, value in (outlier | changes).items()}
        (BUNDLE / "outlier.safetensors").write_bytes(write_arrays(arrays))
        resign(BUNDLE)
        assert "outlier score" in (said := refused(PREDICT, capsys)) or "is refused: " in said


def onnx_model(path, node, shape=(None, 3), extra=()):
    images_in = helper.make_tensor_value_info("images", TensorProto.FLOAT, [None, 3, 64, 64])
    logits_out = helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)
    graph = helper.make_graph([node], "g", [images_in], [logits_out], list(extra))
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
                     .SerializeToString())


def test_an_onnx_file_of_another_model_is_refused(exported_bundle, capsys):
    path = BUNDLE / "model.onnx"
    onnx_model(path, helper.make_node("ReduceMean", ["images"], ["logits"], axes=[2, 3], keepdims=0))  # 3 numbers: fits
    resign(BUNDLE)
    assert main([*PREDICT.split(), "--engine=onnx"]) == 0
    Path("out.csv").unlink()
    for node, shape in ((helper.make_node("Identity", ["images"], ["logits"]), (None, 3, 64, 64)),
                        (helper.make_node("ReduceMean", ["images"], ["logits"], axes=[0, 1, 2, 3]), (1, 1, 1, 1)),
                        (helper.make_node("NoSuch", ["images"], ["logits"], domain="evil"), (None, 3))):
        onnx_model(path, node, shape)
        resign(BUNDLE)
        said = refused(PREDICT + " --engine=onnx", capsys)
        assert "cannot be run" in said or "cannot read model.onnx" in said


def test_an_onnx_file_reads_no_other_file(exported_bundle, capsys, tmp_path):
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.full(3, 7, np.float32).tobytes())
    for place in (str(secret), os.path.relpath(secret)):
        tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
        for key, value in (("location", place), ("offset", "0"), ("length", "12")):
            tensor.external_data.add(key=key, value=value)
        onnx_model(BUNDLE / "model.onnx", helper.make_node("Identity", ["w"], ["logits"]), (3,), [tensor])
        resign(BUNDLE)
        assert "cannot read model.onnx" in refused(PREDICT + " --engine=onnx", capsys)
    assert onnx.load(BUNDLE / "model.onnx", load_external_data=False).graph.initializer


def test_answers_that_are_no_numbers_do_not_look_like_answers(exported_bundle):
    """Weights may be finite and what comes of them not: here by the scale of the pixels."""
    change(input=json.loads(FACTS.read_text())["input"] | {"std": [1e-38] * 3})
    assert main([*PREDICT.split(), "--bs=8"]) in (0, 2)
    if Path("out.csv").exists():
        rows = pd.read_csv("out.csv", keep_default_na=False)
        assert not rows.astype(str).isin(["nan", "inf"]).any(axis=None)
        assert set(rows["reason"]) <= {"", NOT_FINITE}


def test_files_that_nobody_asked_for_are_not_read_and_a_link_counts_as_its_file(exported_bundle, tmp_path):
    (BUNDLE / "setup.py").write_text("raise SystemExit")
    (BUNDLE / "learner.pkl").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    shutil.move(WEIGHTS, tmp_path / "elsewhere")
    WEIGHTS.symlink_to(tmp_path / "elsewhere")
    assert main([*PREDICT.split()]) == 0
    (tmp_path / "elsewhere").write_bytes(b"changed")
    assert main(["predict", str(images()[0]), f"--model={BUNDLE}", "--out=two.csv"]) == 2


@pytest.mark.parametrize("spoil", ["sparse", "no numbers", "NaN", "expanded", "compressed", "names"])
def test_a_checkpoint_of_odd_tensors_is_refused(exported_run, spoil, capsys):
    state = torch.load(f"models/{RUN}/best.pth", weights_only=True)
    name = "conv_stem.weight"
    if spoil == "names":
        state[5] = state.pop(name)
    elif spoil != "compressed":
        state[name] = {"sparse": lambda value: value.to_sparse(), "no numbers": lambda value: value.to("meta"),
                       "NaN": lambda value: value * math.nan,
                       "expanded": lambda value: torch.zeros(1).expand(10**12)}[spoil](state[name])
    torch.save(state, "odd.pth")
    if spoil == "compressed":
        import zipfile
        with zipfile.ZipFile("odd.pth") as old, zipfile.ZipFile("new.pth", "w", zipfile.ZIP_DEFLATED) as new:
            for item in old.namelist():
                new.writestr(item, old.read(item))
            new.writestr("archive/data/99", bytes(10**7))
        os.replace("new.pth", "odd.pth")
    before = hashlib.sha256(Path("odd.pth").read_bytes()).hexdigest()
    assert "odd.pth" in refused("train --weights=odd.pth", capsys)
    assert hashlib.sha256(Path("odd.pth").read_bytes()).hexdigest() == before
