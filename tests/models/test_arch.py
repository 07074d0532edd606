"""Any name of a timm model is understood, and makes a model for the images' size, or is refused before any is read."""

import re

import pytest
import torch
from conftest import ARCH

from busfast.cli import main
from busfast.errors import UserError
from busfast.models.arch import check_arch, check_size, make_timm
from busfast.models.weights import make_model


@pytest.mark.parametrize(("typed", "name"), [
    (f"timm/{ARCH}", ARCH), ("hf-hub:timm/resnet18.a1_in1k", "resnet18.a1_in1k"), ("hf_hub:timm/test_vit", "test_vit"),
    ("tf_efficientnet_b0_ns", "tf_efficientnet_b0.ns_jft_in1k"),
    ("vit_base_patch16_224_in21k", "vit_base_patch16_224.augreg_in21k")])
def test_names_of_model_cards_and_old_names_are_timms(typed, name):
    assert check_arch(typed) == check_arch(name) == name


@pytest.mark.parametrize("arch", ["hf-hub:clinic/resnet18", "clinic/resnet18", "https://huggingface.co/timm/resnet18"])
def test_models_of_others_on_the_hub_are_refused_with_the_way_to_their_weights(arch):
    with pytest.raises(UserError, match=f"Unknown model '{arch}'.*give --arch=NAME --weights=FILE"):
        check_arch(arch)


def test_the_run_of_a_name_of_the_hub_holds_timms_name(workdir):
    assert main(["train", "--epochs=1", f"--arch=hf-hub:timm/{ARCH}", "--then=evaluate"]) == 0
    assert f"arch: {ARCH}\n" in (workdir / "results/phantom/stratified/config.yaml").read_text()
    assert main(["train", "--epochs=1", f"--arch=timm/{ARCH}", "--resume"]) == 0  # the same run


@pytest.mark.parametrize(("arch", "sides"), [("test_vit", (96, 64)), ("test_vit3", (64, 64)), ("test_maxvit", (64, 96)),
                                             ("resnet18", (50, 70))])
def test_a_model_is_made_for_the_size_of_the_images(arch, sides):
    check_size(arch, sides)
    model, _ = make_model(arch, "none", 3, sides=sides)
    assert model.eval()(torch.zeros(2, 3, *sides)).shape == (2, 3)


@pytest.mark.parametrize(("arch", "size", "reason"), [("test_vit", 100, "100 is no multiple of its patches' 16"),
                                                      ("test_maxvit", 72, "")])
def test_a_size_that_does_not_work_is_refused_with_those_that_do(arch, size, reason):
    with pytest.raises(UserError, match=f"{arch} cannot take images of {size} x {size} pixels: {reason}") as refusal:
        check_size(arch, (size, size))
    sizes = [int(found) for found in re.findall(r"--size=(\d+)", str(refusal.value))]
    assert sizes
    for side in sizes:
        make_timm(arch, (side, side)).eval()(torch.zeros(2, 3, side, side))


def test_a_size_is_refused_before_any_image_is_read(workdir, monkeypatch, capsys):
    def fail(*_):
        raise AssertionError("read")

    monkeypatch.setattr("busfast.pipelines.splits.open_table", fail)
    assert main(["train", "--arch=test_vit", "--size=72"]) == 2
    assert "72 is no multiple of its patches' 16. Sizes that work: --size=" in capsys.readouterr().err
    assert not (workdir / "results").exists()
