"""Reads weight files without running code from them, and loads them into a timm model."""

import os
import pickle
import re
import sys
import zipfile
from argparse import Namespace
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from busfast.errors import UserError
from busfast.models.arch import make_timm
from busfast.pipelines.config import require_weights

INSIDE = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "teacher")  # of a checkpoint
Shapes = dict[str, torch.Size]


def load_state(path: str | Path) -> dict[str, torch.Tensor]:
    """Reads tensors from a safetensors file or a checkpoint; never runs code from it.

    Raises:
        UserError: the file is missing or broken, or needs unpickling of more than tensors.
    """
    path = Path(path)
    require_weights(str(path))
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        _refuse_zip_bomb(path)
        with torch.serialization.safe_globals([Namespace]):  # the flags of a training: attributes, no code
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file raises nearly anything
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        if isinstance(error, pickle.UnpicklingError):  # torch's own message advises to load it unsafely
            other = re.search(r"GLOBAL ([\w.]+)", str(error))
            reason = f"it holds more than tensors: {other[1]}" if other else "it is not a checkpoint"
        raise UserError(f"The weights file '{path}' cannot be read safely: {reason}. It must hold tensors only "
                        "(safetensors, or loadable with weights_only=True): save the model's state_dict() alone."
                        ) from error
    for _ in INSIDE:  # one may lie in another; a damaged file may even hold itself
        if not isinstance(state, Mapping) or _is_state(state):
            break
        inside = {key: value for key, value in state.items() if isinstance(value, Mapping)}
        states = [key for key, value in inside.items() if _is_state(value)]
        for key in [key for key in INSIDE if key in inside][:1] or states * (len(states) == 1):
            state = inside[key]
    if not _is_state(state):
        keys = ", ".join(str(key)[:40] for key in list(state)[:6]) if isinstance(state, Mapping) else ""
        raise UserError(f"The weights file '{path}' is not a state dict: it must map names to tensors, but has "
                        f"{keys or 'none'}. Save the model's state_dict() alone.")
    return dict(state)


def _is_state(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in value.items())


def _refuse_zip_bomb(path: Path) -> None:
    """Refuses a zip file that unpacks to more than its own size; torch does not compress what it saves."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if sum(item.file_size for item in archive.infolist()) > path.stat().st_size:
                raise ValueError("it is compressed")


def make_from_state(arch: str, path: Path, state: dict[str, torch.Tensor],
                    options: dict[str, Any]) -> tuple[nn.Module, str]:
    """Makes a timm model with the weights `state` of the file `path`.

    A prefix of the names (module., model., encoder_q. ...) is taken off. A head of another size, or none, leaves the
    model's own, which is new. Tensors beside the model, such as a second encoder or a queue, are left out. Names and
    shapes of the original publications are converted where timm does so for its own weights.

    Args:
        arch: a timm model name.
        path: for the messages.
        state: from `load_state`.
        options: of `make_timm`.

    Returns:
        The model, and what was changed, in brackets; "" if all of the file is all of the model.

    Raises:
        UserError: another tensor is missing or does not fit, or is not finite.
    """
    model = make_timm(arch, **options)
    own = {name: value.shape for name, value in model.state_dict().items()}
    classifier = model.pretrained_cfg.get("classifier") or "classifier"
    heads = tuple(f"{name.split('.')[0]}." for name in ([classifier] if isinstance(classifier, str) else classifier))
    prefix = _find_prefix(own, state)
    given = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    alike = 2 * len(own.keys() & given.keys()) >= len(own)  # most names are timm's
    wrong, converted = _differences(own, given, heads), False
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if wrong and convert:
        with suppress(Exception):  # it was not made for these names
            renamed = convert(dict(given), model)
            if not _differences(own, renamed, heads):
                given, wrong, converted = renamed, [], True
    if wrong:
        taken = f" (without the prefix {prefix[:100]!r})" if prefix else ""
        names = "" if alike else (f" Its names, such as {next(iter(state))[:100]!r}, are not those of timm's {arch}, "
                                  f"such as '{next(iter(own))}'; if it is the same model, rename them.")
        raise UserError(f"The weights in '{path}' do not fit {arch}{taken}: {len(wrong)} tensors differ, such as "
                        f"{wrong[0]}. Name their model: --arch=NAME.{names}")
    fitting = {name: value for name, value in given.items() if own.get(name) == value.shape}
    try:
        model.load_state_dict(fitting, strict=False)
        finite = all(value.isfinite().all() for value in model.state_dict().values())
    except RuntimeError as error:  # sparse or quantized tensors, or tensors on the meta device
        raise UserError(f"The weights in '{path}' are not ordinary tensors: {str(error)[:200]}") from error
    if not finite:
        raise UserError(f"The weights in '{path}' hold numbers that are not finite. Use those of an earlier epoch.")
    parts = {name.split(".")[0] for name in own}
    beside = sorted({_part_of(prefix, name) for name in state
                     if not name.startswith(prefix) or name.removeprefix(prefix).split(".")[0] not in parts})
    notes = [f"without the prefix {prefix}" if prefix else "", "names or shapes converted by timm" if converted else "",
             f"left out: {', '.join(beside[:6])}" if beside and alike else "",
             "but for the head" if any(name.startswith(heads) for name in own.keys() - fitting.keys()) else ""]
    return model, f" ({'; '.join(filter(None, notes))})" if any(notes) else ""


def _find_prefix(own: Shapes, state: Iterable[str]) -> str:
    """Returns what stands before most of a model's names in a file, up to a dot; the first of equals."""
    found = Counter(name[:end] for name in state  # no longer prefix, so that no name takes long
                    for end in (0, *(dot.end() for dot in re.finditer(r"\.", name[:200]))) if name[end:] in own)
    best, count = found.most_common(1)[0] if found else ("", 0)
    return best if 2 * count >= len(own) else _to_dot(os.path.commonprefix(list(state)))


def _part_of(prefix: str, name: str) -> str:
    """Returns the name of the part of a checkpoint, on the level of its prefix, that a tensor belongs to."""
    common = _to_dot(os.path.commonprefix([prefix, name]))
    return common + name.removeprefix(common).split(".")[0]


def _to_dot(name: str) -> str:
    return name[:name.rfind(".") + 1]


def _differences(own: Shapes, given: Mapping[str, torch.Tensor], heads: tuple[str, ...]) -> list[str]:
    """Returns what does not fit but for heads, with how; names whose first part the model lacks lie beside it."""
    parts = {name.split(".")[0] for name in own}
    missing = [f"'{name}', which the file lacks" for name in own.keys() - given.keys()
               if not name.startswith(heads) and not name.endswith("num_batches_tracked")]
    unknown = [f"{name[:100]!r}, which the model lacks" for name in given.keys() - own.keys()
               if not name.startswith(heads) and name.split(".")[0] in parts]
    shapes = [f"'{name}', {tuple(given[name].shape)} in the file and {tuple(own[name])} in the model"
              for name in own.keys() & given.keys() if not name.startswith(heads) and given[name].shape != own[name]]
    return sorted(missing) + sorted(unknown) + sorted(shapes)
