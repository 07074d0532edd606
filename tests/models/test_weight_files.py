"""Weight files load into the model they fit, and no code in them ever runs."""

import pickle
from pathlib import Path

import pytest
import timm
import torch
from conftest import ARCH
from safetensors.torch import save_file

from busfast.errors import UserError
from busfast.models.weights import make_model


class Evil:
    def __reduce__(self):
        return Path.touch, (Path("evil_was_here"),)


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
