"""Loads a bundle with torch, timm and safetensors alone. This file may be copied out of busfast; it imports none of it.

    model, facts = load_bundle("models/phantom/stratified/bundle")
    probabilities = (model(x) / (facts["temperature"] or 1)).softmax(dim=1)    # of facts["classes"]

`x` is float32, (N, 3, size, size): the image as `load_pixels` of `busfast/data/images.py` gives it (that file needs
Pillow and NumPy alone and may be copied, too), divided by 255, less `facts["input"]["mean"]`, divided by `["std"]`.
"""

import hashlib
import json
import math
import os
import re
import stat
from functools import partial
from pathlib import Path

import timm
import torch
from safetensors.torch import load as read_tensors

FORMAT, MAJORS = "busfast bundle", ("1", "2")  # 1.x: one model; 2.x: an ensemble, with the key `members`
KEYS = {"format", "version", "intended_use", "classes", "architecture", "input", "temperature", "operating_points",
        "metrics", "outlier", "run", "files"}
MEMBERS = 100  # that an ensemble may have
FILES = {"weights.safetensors", "outlier.safetensors", "model.onnx"}
MOST, DEPTH = 2_000_000, 20  # bytes of bundle.json, and levels of it
HEADER = 16_000_000  # bytes of weights.safetensors besides the numbers
LARGEST = 2**31  # bytes of any other file; ONNX has no larger ones


def load_bundle(folder: str | Path) -> tuple[torch.nn.Module, dict]:
    """Returns the model of a bundle, in eval mode, and what bundle.json says. No code of the bundle is run.

    Raises:
        ValueError: the folder is no bundle, was changed, is of another major version, or holds no finite numbers.
        OSError: a file cannot be read.
    """
    facts = read_facts(folder)
    name, members = facts["architecture"], facts.get("members", 0)
    if not re.fullmatch(r"[\w.-]{1,100}", name) or not timm.is_model(name):  # no "hf-hub:", no path
        raise ValueError(f"bundle.json: timm {timm.__version__} has no model '{name[:100]}'")
    make = partial(timm.create_model, name, pretrained=False, num_classes=len(facts["classes"]))
    own = _describe(make)
    if members:
        own = {f"members.{number}.{key}": value for number in range(members) for key, value in own.items()}
    most = HEADER + sum(value.numel() * value.element_size() for value in own.values())
    data = read_file(folder, facts, "weights.safetensors", most)
    try:
        weights = read_tensors(data)
    except Exception as error:  # a broken header raises errors of several kinds
        raise ValueError(f"weights.safetensors cannot be read: {str(error)[:200]}") from None
    wrong = sorted(own.keys() ^ weights.keys()) + sorted(
        key for key in own.keys() & weights.keys()
        if (own[key].shape, own[key].dtype) != (weights[key].shape, weights[key].dtype))
    if wrong:
        raise ValueError(f"weights.safetensors does not fit {name}: '{wrong[0][:100]}' and {len(wrong) - 1} more "
                         "tensors")
    if not all(value.isfinite().all() for value in weights.values()):
        raise ValueError("weights.safetensors holds numbers that are not finite")
    model = Ensemble([make() for _ in range(members)]) if members else make()
    model.load_state_dict(weights)
    return model.eval(), facts


class Ensemble(torch.nn.Module):
    """Models of one kind as one: the mean of their probabilities.

    Its logits are the logarithm of that mean, so that it is their softmax. Of what a model shows of its inside (see
    timm), the maps are those of the first member, and the features those of all, one after the other.

    Args:
        members: timm models.

    Source:
        Lakshminarayanan et al. 2017, "Simple and scalable predictive uncertainty estimation using deep ensembles"
        (arXiv 1612.01474).
    """

    def __init__(self, members: list[torch.nn.Module]):
        super().__init__()
        self.members = torch.nn.ModuleList(members)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns logits, (N, classes)."""
        return self._join([one(x) for one in self.members])

    def forward_features(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Returns the last maps of each member."""
        return [one.forward_features(x) for one in self.members]

    def forward_intermediates(self, x: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Returns the last maps of each member, and all maps of the first."""
        last, maps = self.members[0].forward_intermediates(x)
        return [last, *(one.forward_features(x) for one in self.members[1:])], maps

    def forward_head(self, last: list[torch.Tensor], pre_logits: bool = False) -> torch.Tensor:
        """Returns logits of the members' last maps, or all their features."""
        found = [one.forward_head(of, pre_logits=pre_logits) for one, of in zip(self.members, last, strict=True)]
        return torch.cat(found, dim=1) if pre_logits else self._join(found)

    def _join(self, logits: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack([one.log_softmax(dim=1) for one in logits]).logsumexp(dim=0) - math.log(len(logits))


def _describe(make) -> dict[str, torch.Tensor]:
    """Returns a model's tensors without their numbers: a name alone must not fill the memory with a giant model."""
    try:
        with torch.device("meta"):
            return make().state_dict()
    except (RuntimeError, ValueError):
        pass  # an older timm computes with numbers there; a tag that is unknown is refused below
    try:
        return make().state_dict()
    except RuntimeError as error:
        raise ValueError(f"bundle.json: timm {timm.__version__} cannot make the model: {str(error)[:200]}") from None


def read_facts(folder: str | Path) -> dict:
    """Reads and checks bundle.json; raises as `load_bundle`."""
    text = _read(Path(folder) / "bundle.json", MOST)
    try:
        facts = json.loads(text, object_pairs_hook=_no_key_twice, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("bundle.json is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"bundle.json: {error}") from None
    level, depth = [facts], 0
    while level := [item for one in level if isinstance(one, dict | list)
                    for item in (one.values() if isinstance(one, dict) else one)]:
        depth += 1
        if depth > DEPTH:
            raise ValueError("bundle.json is nested too deeply")
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise ValueError(f"bundle.json does not say \"format\": \"{FORMAT}\"")
    version = facts.get("version")
    if not isinstance(version, str):
        raise ValueError("bundle.json: version is no text")
    major = version.partition(".")[0]
    if major not in MAJORS:
        raise ValueError(f"bundle.json is of version {version[:20]}; this code reads {'.x and '.join(MAJORS)}.x")
    keys = KEYS | {"members"} if major == "2" else KEYS
    if facts.keys() != keys:
        raise ValueError(f"bundle.json: the key '{str(sorted(facts.keys() ^ keys)[0])[:40]}' is unknown or missing")
    if major == "2" and (type(facts["members"]) is not int or not 2 <= facts["members"] <= MEMBERS):
        raise ValueError(f"bundle.json: members is no number from 2 to {MEMBERS}")
    classes, files = facts["classes"], facts["files"]
    if not (isinstance(classes, list) and 2 <= len(classes) <= 10_000 and all(isinstance(one, str) for one in classes)
            and len(set(classes)) == len(classes) and isinstance(facts["architecture"], str)):
        raise ValueError("bundle.json: classes are no two names or more, each once, or architecture is no name")
    for name in classes:  # they become columns of a table, and words on a page
        if not re.fullmatch(r"\w[\w .-]*", name):
            raise ValueError(f"bundle.json: the class name '{name[:40]}' is not of letters, digits, ' ', '.', '_', '-'")
    if not isinstance(files, dict) or not {"weights.safetensors"} <= files.keys() <= FILES:
        raise ValueError(f"bundle.json: files must name weights.safetensors, and others of {sorted(FILES)} alone")
    return facts


def read_file(folder: str | Path, facts: dict, name: str, most: int = LARGEST) -> bytes:
    """Returns the bytes of a file of the bundle, if they have the checksum that bundle.json gives.

    Args:
        folder, facts: the bundle.
        name: of the file.
        most: bytes that it may have.
    """
    data = _read(Path(folder) / name, most)
    if hashlib.sha256(data).hexdigest() != facts["files"].get(name):
        raise ValueError(f"{name} is not the file that the bundle was made with: its checksum differs")
    return data


def _read(path: Path, most: int) -> bytes:
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for ever
        raise ValueError(f"{path.name} is no regular file")
    if found.st_size > most:
        raise ValueError(f"{path.name} has {found.st_size:,} bytes, more than the {most:,} that it may have")
    with open(path, "rb") as file:
        return file.read(found.st_size)  # memory for `most` would be taken at once


def _no_key_twice(pairs: list) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands there twice")
    return found


def _no_constant(name: str):
    raise ValueError(f"{name} is no number")
