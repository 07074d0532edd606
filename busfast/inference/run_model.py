"""The weights of a run -> the model they belong to, an ensemble included."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from fastai.learner import Learner
from fastai.losses import BCEWithLogitsLossFlat, CrossEntropyLossFlat
from torch import nn

from busfast.errors import UserError
from busfast.inference.load_bundle import Ensemble, Mirrored
from busfast.models.memory import keep_freed_memory
from busfast.models.weight_files import load_state, make_from_state
from busfast.pipelines.config import Config
from busfast.pipelines.dataloaders import inference_dls
from busfast.pipelines.devices import memory_format
from busfast.pipelines.image import ImagePipeline
from busfast.pipelines.threads import use_threads


def load_model(path: Path, arch: str, image: ImagePipeline, classes: tuple[str, ...], *, bs: int = 32,
               device: str = "auto", threads: int = 0, members: int = 0, tta: str = "none",
               label_delim: str = "") -> Learner:
    """Makes a Learner for inference from saved weights (tensors only; no code of the file is run).
    An ensemble's file has `members` models; tta and label_delim: see `Config`. UserError if the weights are
    missing, broken, or of another model."""
    keep_freed_memory()
    use_threads(threads)
    model = load_ensemble(arch, path, len(classes), members, image.sides) if members else \
        _make_whole(arch, path, load_state(path), len(classes), image.sides)
    if tta == "flip":
        model = Mirrored(model, bool(label_delim))
    dls = inference_dls(image, classes, bs=bs, device=device, threads=threads, label_delim=label_delim)
    return Learner(dls, model.to(dls.device, memory_format=memory_format(dls.device)),
                   loss_func=BCEWithLogitsLossFlat() if label_delim else CrossEntropyLossFlat())


def load_run_model(path: Path, config: Config, record: dict[str, Any], **flags) -> Learner:
    """Loads the weights of a run, described by `Run.read_config`; raises as `load_model`.

    `flags` are bs, device and threads of `load_model`; default: as in training.
    """
    options: dict[str, Any] = {"device": config.device, "threads": config.threads, "tta": config.tta,
                               "label_delim": config.label_delim,
                               "members": len(record.get("members") or ())} | flags
    return load_model(path, config.arch, run_image(config, record), config.classes, **options)


def run_image(config: Config, record: dict[str, Any]) -> ImagePipeline:
    """Returns a run's image pipeline, without augmentation; raises UserError if its record has no mean and std."""
    try:
        mean, std = (tuple(map(float, record["weights"][name])) for name in ("mean", "std"))
        valid = len(mean) == len(std) == 3 and all(map(math.isfinite, mean + std)) and min(std) > 0
    except (KeyError, TypeError, ValueError, OverflowError):
        valid = False
    if not valid:
        raise UserError("The run's config.yaml has no valid normalization (run: weights: mean and std, three numbers "
                        "each). Restore the file, or train again.")
    return ImagePipeline(config.size, config.resize, config.channels, mean=mean, std=std, width=config.width)


def _make_whole(arch: str, path: Path, state: dict[str, torch.Tensor], classes: int,
                sides: tuple[int, int]) -> nn.Module:
    """Makes a timm model of weights that must be all of it, head included; raises as `make_from_state`."""
    model, note = make_from_state(arch, path, state, {"num_classes": classes, "sides": sides})
    if note:
        raise UserError(f"The weights in '{path}' are not those of {arch} with {classes} classes{note}: they or "
                        "config.yaml were changed since training. Restore them.")
    return model


def load_ensemble(arch: str, path: Path, classes: int, members: int, sides: tuple[int, int]) -> Ensemble:
    """Makes an ensemble of timm models from a file with the tensors of `join_states`; raises as `load_state`."""
    state = load_state(path)
    states = [{name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
              for prefix in (f"members.{index}." for index in range(members))]
    if sum(map(len, states)) < len(state):
        raise UserError(f"The weights in '{path}' are not of {members} members. Make the ensemble again.")
    return Ensemble([_make_whole(arch, path, member, classes, sides) for member in states])


def join_states(paths: Sequence[Path]) -> dict[str, torch.Tensor]:
    """Reads the weights of several models; returns those of an `Ensemble` of them."""
    return {f"members.{index}.{name}": value for index, path in enumerate(paths)
            for name, value in load_state(path).items()}
