"""Reads weight files without running code from them, and loads them into a timm model."""

import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from torch import nn

from busfast.errors import UserError


def load_state(path: str | Path) -> dict[str, torch.Tensor]:
    """Reads tensors from a safetensors file or a checkpoint; never runs code from it.

    Raises:
        UserError: the file is missing or broken, or needs unpickling of more than tensors.
    """
    path = Path(path)
    if not os.path.isfile(path):  # False, too, for a name that no file can have
        raise UserError(f"There is no weights file '{path}'. Use auto, none, or an existing file.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        _refuse_zip_bomb(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file raises nearly anything
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        if isinstance(error, pickle.UnpicklingError):  # torch's own message advises to load it unsafely
            reason = "it is not a checkpoint, or holds more than tensors"
        raise UserError(f"The weights file '{path}' cannot be read safely: {reason}. It must hold tensors only "
                        "(safetensors, or loadable with weights_only=True).") from error
    for key in ("model", "state_dict"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(name, str) and isinstance(value, torch.Tensor)
                                                 for name, value in state.items()):
        raise UserError(f"The weights file '{path}' is not a state dict: it must map names to tensors.")
    return dict(state)


def _refuse_zip_bomb(path: Path) -> None:
    """Refuses a zip file that unpacks to more than its own size; torch does not compress what it saves."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if sum(item.file_size for item in archive.infolist()) > path.stat().st_size:
                raise ValueError("it is compressed")


def make_from_state(arch: str, path: Path, state: dict[str, torch.Tensor],
                    options: dict[str, Any]) -> tuple[nn.Module, bool]:
    """Makes a timm model with the weights `state` of the file `path`; returns whether its classifier is new, too.
    A classifier of another size is left out; UserError if another tensor does not fit, or is not finite."""
    model = timm.create_model(arch, **options)
    own = model.state_dict()
    classifier = model.pretrained_cfg.get("classifier") or "classifier"
    classifiers = {classifier} if isinstance(classifier, str) else set(classifier)
    new_head = {name for name, value in state.items()
                if name.rpartition(".")[0] in classifiers and name in own and own[name].shape != value.shape}
    wrong = sorted(own.keys() ^ state.keys()) + sorted(
        name for name in (own.keys() & state.keys()) - new_head if own[name].shape != state[name].shape)
    if wrong:
        raise UserError(f"The weights in '{path}' do not fit {arch}: {len(wrong)} tensors differ, such as "
                        f"'{wrong[0]}'. Name their model: --arch=NAME.")
    try:
        model.load_state_dict({name: value for name, value in state.items() if name not in new_head}, strict=False)
        finite = all(value.isfinite().all() for value in model.state_dict().values())
    except RuntimeError as error:  # sparse or quantized tensors, or tensors on the meta device
        raise UserError(f"The weights in '{path}' are not ordinary tensors: {str(error)[:200]}") from error
    if not finite:
        raise UserError(f"The weights in '{path}' hold numbers that are not finite. Use those of an earlier epoch.")
    return model, bool(new_head)
