"""Makes a timm model with its start weights: pretrained, packaged, from a file, or random."""

import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import constants, try_to_load_from_cache
from torch import nn

from busfast.models.arch import check_arch, make_timm
from busfast.models.packaged_weights import MEAN_STD, load_packaged_weights
from busfast.models.weight_files import load_state, make_from_state
from busfast.once import say

PROBE_SECONDS = 3


@dataclass(frozen=True)
class StartWeights:
    """What a model starts from, with the normalization that it expects of pixels from 0 to 1, for R, G, B."""

    text: str  # a description, for the screen and the run's record
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def make_model(arch: str = "efficientnet_b0", weights: str | StartWeights = "auto", classes: int = 3,
               dropout: float = 0.2, sides: tuple[int, int] | None = None) -> tuple[nn.Module, StartWeights]:
    """Makes a timm model.

    Args:
        arch: any timm model name; see `check_arch`.
        weights: "auto": timm's pretrained weights if they are cached or the hub can be reached, else packaged
            EfficientNet-Lite0 weights where they fit, else random. "none": random. A file: safetensors, or a checkpoint
            that loads with `weights_only=True`. `StartWeights`: nothing is loaded, for a checkpoint follows.
        classes: number of outputs.
        dropout: before the classifier, 0 to 1.
        sides: height and width of the images; None: the model's own size.

    Returns:
        The model, giving logits (N, classes), and its start weights.

    Raises:
        UserError: the model is unknown; a weights file is missing, unsafe, broken or does not fit.
    """
    arch = check_arch(arch)
    options: dict[str, Any] = {"sides": sides, "num_classes": classes, "drop_rate": dropout}
    if isinstance(weights, StartWeights):
        return make_timm(arch, **options), weights
    if weights == "none":
        return _describe(make_timm(arch, **options), "random (asked for)")
    if weights != "auto":
        path = Path(weights)
        model, note = make_from_state(arch, path, load_state(path), options)
        return _describe(model, f"file {path}{note}")
    model, text = _load_pretrained(arch, options)
    if model is not None:
        zero_init_head(model)
        return _describe(model, f"{text}, but for the head")
    say(f"weights: {text}")
    model = make_timm(arch, **options)
    packaged = load_packaged_weights(arch, model)
    if packaged:
        zero_init_head(model)
        return model, StartWeights(packaged, MEAN_STD, MEAN_STD)
    say(f"weights: no packaged weights fit {arch} either: training starts from random weights and needs many more "
        "epochs. Give a file: --weights=FILE.")
    return _describe(model, f"random ({text})")


def _describe(model: nn.Module, text: str) -> tuple[nn.Module, StartWeights]:
    return model, StartWeights(text, tuple(model.pretrained_cfg["mean"]), tuple(model.pretrained_cfg["std"]))


def _load_pretrained(arch: str, options: dict[str, Any]) -> tuple[nn.Module | None, str]:
    """Returns the model with timm's pretrained weights and their name, or None and the reason."""
    settings = timm.get_pretrained_cfg(arch)
    if settings is None or not settings.has_weights:
        return None, f"timm has no pretrained weights of {arch}"
    name = settings.hf_hub_id or settings.url
    for file in ("model.safetensors", "pytorch_model.bin") if settings.hf_hub_id else ():
        cached = try_to_load_from_cache(settings.hf_hub_id, file)
        if isinstance(cached, str):
            overlay = {"file": cached}
            return make_timm(arch, pretrained=True, pretrained_cfg_overlay=overlay, **options), f"timm {name}"
    reason = _why_hub_unreachable()
    if not reason:
        try:
            return make_timm(arch, pretrained=True, **options), f"timm {name}"
        except Exception as error:  # a hub fails in many ways; each ends in the fallback, with its reason
            reason = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
    return None, f"timm's pretrained weights ({name}) are out of reach: {reason}"


def _why_hub_unreachable() -> str:
    """Returns why the hub cannot be reached, or "". timm alone would retry for about a minute."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=PROBE_SECONDS)
    except (OSError, ValueError) as error:  # ValueError: HF_ENDPOINT is no address
        reason = getattr(error, "reason", error)
        return f"{constants.ENDPOINT}: {getattr(reason, 'strerror', None) or reason}"
    return ""


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
