"""A model starts from cached, packaged or random weights, and the choice is printed within seconds."""

import socket
import urllib.error

import pytest
import timm
import torch
from conftest import ARCH
from safetensors.torch import save_file

from busfast.errors import UserError
from busfast.models import weights
from busfast.models.weights import make_model


@pytest.mark.parametrize(("error", "shown"), [
    (TimeoutError("timed out"), "timed out"), (socket.gaierror(-2, "Name or service not known"), "Name or service not"),
    ("no host given", "no host given")])
def test_a_hub_that_does_not_answer_is_given_up_within_the_probe(monkeypatch, error, shown):
    def hang(request, timeout):
        assert timeout == weights.PROBE_SECONDS <= 5
        raise urllib.error.URLError(error)
    monkeypatch.setattr(weights.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(weights.urllib.request, "urlopen", hang)
    _, start = make_model(ARCH)
    assert f"are out of reach: {weights.constants.ENDPOINT}: {shown}" in start.text


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


def test_an_unknown_model_names_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'efficientnet_b0'"):
        make_model("efficientnet_b00")


def test_a_position_embedding_of_a_file_is_resized_to_the_images(tmp_path):
    source = timm.create_model("test_vit", num_classes=3)
    torch.save(source.state_dict(), tmp_path / "own_size.pth")
    model, start = make_model("test_vit", str(tmp_path / "own_size.pth"), 3, sides=(64, 96))
    assert model.pos_embed.shape == (1, 25, 64) and "converted by timm" in start.text
    assert torch.equal(model.blocks[0].attn.qkv.weight, source.blocks[0].attn.qkv.weight)
    assert torch.equal(model.head.weight, source.head.weight)
