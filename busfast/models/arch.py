"""A timm name, also an old one or one of the hub -> a model for images of a size; what cannot work is refused early."""

from functools import cache
from itertools import islice
from typing import Any

import timm
import torch
from timm.layers import PatchEmbed
from timm.models import get_deprecated_models
from torch import nn

from busfast.errors import UserError
from busfast.timm_names import plain_name, unknown_model

STEPS = (14, 16, 32)  # multiples of these are tried as other sizes: patches, and patches times strides or windows
SUGGESTED = 3  # sizes in the message


@cache
def check_arch(arch: str) -> str:
    """Returns timm's name of a model, with or without a tag, for that name, an old one, or one of timm's on the hub
    (timm/NAME, hf-hub:timm/NAME); no hub is asked. UserError with the nearest name for any other."""
    name = plain_name(arch)
    name, models = get_deprecated_models().get(name) or name, timm.list_models()
    if name in models or "." in name and name in timm.list_pretrained():
        return name
    raise unknown_model(arch, models)


def make_timm(arch: str, sides: tuple[int, int] | None = None, **options: Any) -> nn.Module:
    """Makes a timm model for images of that height and width, which models with position embeddings or windows must
    know; None: of the model's own size. `options`: of timm.create_model."""
    fixed = getattr(timm.get_pretrained_cfg(arch), "fixed_input_size", False)
    return timm.create_model(arch, **({"img_size": sides} if sides and fixed else {}), **options)


def check_size(arch: str, sides: tuple[int, int]) -> None:
    """Refuses a size that a model cannot take, with the nearest that it takes, by forward passes without data."""
    reason = _why_not(arch, sides)
    if reason:
        own = getattr(timm.get_pretrained_cfg(arch), "input_size", (3, 224, 224))[-1]
        near = {own} | {step * (sides[0] // step + more) for step in STEPS for more in (0, 1)}
        work = islice((size for size in sorted(near, key=lambda size: abs(size - sides[0]))
                       if size >= 32 and not _why_not(arch, (size, size))), SUGGESTED)
        raise UserError(f"{arch} cannot take images of {sides[0]} x {sides[1]} pixels: {reason}. Sizes that work: "
                        f"{', '.join(f'--size={size}' for size in sorted(work)) or 'none near it'}.")


@cache
def _why_not(arch: str, sides: tuple[int, int]) -> str:
    """Returns why a model takes no images of that height and width; "": it does."""
    reason = ""
    for device in ("meta", "cpu"):  # some models compute values while they are made, which "meta" cannot
        try:
            with torch.random.fork_rng(devices=[]), torch.device(device), torch.inference_mode():
                model = make_timm(arch, sides).eval()
                patches = getattr(model, "patch_embed", None)
                if type(patches) is PatchEmbed and not patches.dynamic_img_pad:
                    for side, patch in zip(sides, patches.patch_size, strict=True):
                        if side % patch:  # the rest would be cut off without a word
                            return f"{side} is no multiple of its patches' {patch}"
                model(torch.zeros(2, 3, *sides))
                return ""
        except Exception as error:  # models raise nearly anything
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200].rstrip(".")
            if not isinstance(error, NotImplementedError) and "meta" not in str(error):
                break
    return reason
