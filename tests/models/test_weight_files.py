"""Weight files load into the model they fit, and no code in them ever runs."""

import pickle
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from conftest import ARCH
from safetensors.torch import save_file

from busfast.errors import UserError
from busfast.inference.run_model import load_model
from busfast.models.weights import make_model
from busfast.pipelines.image import ImagePipeline


class Evil:
    def __reduce__(self):
        return Path.touch, (Path("evil_was_here"),)


def trunk(state, prefix="", head=True):
    return {prefix + name: value for name, value in state.items() if head or not name.startswith("classifier.")}


FORMS = {  # of others' checkpoints -> what is in them, of a state dict, and what is said of it
    "DataParallel": (lambda own: {"epoch": 9, "arch": "x", "state_dict": trunk(own, "module.")}, "the prefix module."),
    "Lightning": (lambda own: {"state_dict": trunk(own, "model."), "hyper_parameters": {"lr": 0.1}}, "prefix model."),
    "compiled": (lambda own: {"model_state": trunk(own, "_orig_mod.")}, "without the prefix _orig_mod."),
    "SimCLR": (lambda own: trunk(own, "backbone.", head=False) | {"projector.weight": torch.ones(2)},
               "without the prefix backbone.; left out: projector; but for the head"),
    "MoCo": (lambda own: {"state_dict": trunk(own, "module.encoder_q.") | {
        name: 0 * value for name, value in trunk(own, "module.encoder_k.").items()} | {"module.queue": torch.ones(2)}},
        "prefix module.encoder_q.; left out: module.encoder_k, module.queue"),
    "fastai": (lambda own: {"model": trunk(own, "0.model.", head=False) | {"1.8.weight": torch.ones(2)}, "opt": {}},
               "without the prefix 0.model."),
    "DINO": (lambda own: {"student": trunk(own, "module.backbone."), "teacher": trunk(own, "backbone.", head=False) | {
        "head.mlp.0.weight": torch.ones(2)}}, "without the prefix backbone.; left out: head; but for the head"),
    "no head": (lambda own: {"encoder": trunk(own, head=False)}, "but for the head"),
    "flags": (lambda own: {"net": own, "args": Namespace(lr=0.1)}, ""),
    "old": (lambda own: {name: value for name, value in own.items() if not name.endswith("batches_tracked")}, ""),
}


@pytest.mark.parametrize("form", FORMS)
def test_checkpoints_of_others_are_taken_and_what_was_done_is_said(form, tmp_path):
    source = timm.create_model(ARCH, num_classes=10)
    change, said = FORMS[form]
    torch.save(change(source.state_dict()), tmp_path / "other.pth")
    model, start = make_model(ARCH, str(tmp_path / "other.pth"))
    assert said in start.text and "but for the head)" in start.text
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in model.state_dict().items()
               if not name.startswith("classifier."))


@pytest.mark.parametrize("form", ["state.safetensors", "state.pth", "wrapped.pth"])
def test_a_weights_file_is_taken_as_it_is(form, tmp_path):
    source = timm.create_model(ARCH, num_classes=3)
    path = tmp_path / form
    if form.endswith("safetensors"):
        save_file(source.state_dict(), path)
    else:
        torch.save({"model": source.state_dict()} if form.startswith("wrapped") else source.state_dict(), path)
    model, start = make_model(ARCH, str(path))
    assert start.text == f"file {path}"
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_file_with_another_head_gives_all_but_the_head(tmp_path):
    source = timm.create_model(ARCH, num_classes=10)
    torch.save(source.state_dict(), tmp_path / "ten.pth")
    model, start = make_model(ARCH, str(tmp_path / "ten.pth"))
    assert start.text.endswith("(but for the head)")
    assert torch.equal(model.state_dict()["conv_stem.weight"], source.state_dict()["conv_stem.weight"])


def test_a_pickle_with_code_is_refused_and_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, save in (("evil.pth", torch.save), ("evil.pkl", lambda o, f: f.write_bytes(pickle.dumps(o)))):
        save({"conv_stem.weight": Evil()}, tmp_path / name)
        with pytest.raises(UserError, match="cannot be read safely"):
            make_model(ARCH, str(tmp_path / name))
    assert not (tmp_path / "evil_was_here").exists()


def test_weights_that_do_not_fit_or_are_broken_or_missing_are_refused(tmp_path):
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "other.pth")
    (tmp_path / "broken.safetensors").write_bytes(b"\x10")
    (tmp_path / "broken.pth").write_bytes(b"PK\x03\x04")
    torch.save([1, 2], tmp_path / "list.pth")
    for name, words in (("other.pth", "do not fit"), ("broken.safetensors", "cannot be read"),
                        ("broken.pth", "cannot be read"), ("list.pth", "is not a state dict"),
                        ("gone.pth", "There is no weights file")):
        with pytest.raises(UserError, match=words):
            make_model(ARCH, str(tmp_path / name))


def test_what_does_not_fit_is_named(tmp_path):
    state = timm.create_model("resnet34", num_classes=3).state_dict()
    wrong = {"deeper": (state, "'layer1.2.bn1.bias', which the model lacks"),
             "renamed": ({f"features.{number}": value for number, value in enumerate(state.values())},
                         "Its names, such as 'features.0', are not those of timm's resnet18, such as 'conv1.weight'"),
             "narrow": ({f"module.{name}": value[:, :2] if value.ndim == 4 else value for name, value in
                         timm.create_model("resnet18").state_dict().items()},
                        r"the prefix 'module.'\).*'conv1.weight', \(64, 2, 7, 7\) in the file and \(64, 3, 7, 7\)"),
             "hostile": ({"." * 99_999 + str(number): torch.ones(1) for number in range(9)}, "are not those of timm's"),
             "two": ({"student": {"a": torch.ones(1)}, "ema": {"a": torch.ones(1)}}, "but has student, ema"),
             "numbers": ({"conv1.weight": torch.ones(1), "best": np.float64(1)}, r"more than tensors: numpy\.")}
    for name, (content, words) in wrong.items():
        torch.save(content, tmp_path / f"{name}.pth")
        with pytest.raises(UserError, match=words) as refusal:
            make_model("resnet18", str(tmp_path / f"{name}.pth"))
        assert len(str(refusal.value)) < 1000


def test_the_weights_of_a_run_must_be_all_of_its_model(tmp_path):
    state = timm.create_model(ARCH, num_classes=3).state_dict()
    for name, changed in {"headless": trunk(state, head=False), "prefixed": trunk(state, "module.")}.items():
        torch.save(changed, tmp_path / f"{name}.pth")
        with pytest.raises(UserError, match=f"are not those of {ARCH} with 3 classes .*Restore them"):
            load_model(tmp_path / f"{name}.pth", ARCH, ImagePipeline(size=64), ("a", "b", "c"))
