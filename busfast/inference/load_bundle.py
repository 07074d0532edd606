"""Loads a bundle with only torch, timm and safetensors. This file imports nothing of busfast and may be copied.

    model, facts = load_bundle("models/phantom/stratified/bundle")
    probabilities = (model(x) / (facts["temperature"] or 1)).softmax(dim=1)    # of facts["classes"]
    probabilities = model(x).sigmoid()                                         # if facts.get("label_delim")

`x` is float32, (N, 3, size, size): the image as returned by `load_pixels` of `busfast/data/images.py` (which needs only
Pillow and NumPy and may be copied, too), divided by 255, minus `facts["input"]["mean"]`, divided by `["std"]`.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import stat
import unicodedata
from functools import partial
from pathlib import Path

import timm
import torch
from safetensors.torch import load as read_tensors

# 1.x: one model; 2.x: an ensemble, with the key `members`; 3.x: a model with the keys of `EXTRA["3"]`: test-time
# augmentation (none or flip), and what stands between the labels of an image ("": it has one); 4.x: both.
FORMAT = "busfast bundle"
EXTRA = {"1": set(), "2": {"members"}, "3": {"tta", "label_delim"}, "4": {"members", "tta", "label_delim"}}
KEYS = {"format", "version", "intended_use", "classes", "architecture", "input", "temperature", "operating_points",
        "metrics", "outlier", "run", "files"}
MAX_MEMBERS, MAX_SIDE = 100, 2048
FILES = {"weights.safetensors", "outlier.safetensors", "model.onnx"}
MAX_JSON_BYTES, MAX_JSON_DEPTH = 2_000_000, 20
MAX_HEADER_BYTES = 16_000_000  # of weights.safetensors
MAX_FILE_BYTES = 2**31  # of any other file; the limit of ONNX


def load_bundle(folder: str | Path) -> tuple[torch.nn.Module, dict]:
    """Returns the model of a bundle, in eval mode, and the content of bundle.json. Runs no code of the bundle.
    ValueError for no bundle, a changed one, another major version or numbers that are not finite; OSError as `open`."""
    facts = read_facts(folder)
    name, members = facts["architecture"], facts.get("members", 0)
    if not re.fullmatch(r"[\w.-]{1,100}", name) or not timm.is_model(name):  # no "hf-hub:", no path
        raise ValueError(f"bundle.json: timm {timm.__version__} has no model '{name[:100]}'")
    make = partial(timm.create_model, name, pretrained=False, num_classes=len(facts["classes"]), **_at_size(facts))
    expected = _describe(make)
    if members:
        expected = {f"members.{index}.{key}": value for index in range(members) for key, value in expected.items()}
    max_bytes = MAX_HEADER_BYTES + sum(value.numel() * value.element_size() for value in expected.values())
    data = read_file(folder, facts, "weights.safetensors", max_bytes)
    try:
        weights = read_tensors(data)
    except Exception as error:  # a broken header raises errors of several kinds
        raise ValueError(f"weights.safetensors cannot be read: {str(error)[:200]}") from None
    wrong = sorted(expected.keys() ^ weights.keys()) + sorted(
        key for key in expected.keys() & weights.keys()
        if (expected[key].shape, expected[key].dtype) != (weights[key].shape, weights[key].dtype))
    if wrong:
        raise ValueError(f"weights.safetensors does not fit {name}: '{wrong[0][:100]}' and {len(wrong) - 1} more "
                         "tensors")
    if not all(value.isfinite().all() for value in weights.values()):
        raise ValueError("weights.safetensors holds numbers that are not finite")
    model = Ensemble([make() for _ in range(members)]) if members else make()
    model.load_state_dict(weights)
    if facts.get("tta") == "flip":
        model = Mirrored(model, bool(facts["label_delim"]))
    return model.eval(), facts


class Ensemble(torch.nn.Module):
    """Several models as one, with the mean of their probabilities.

    Its logits are the logarithm of that mean, so their softmax is the mean. Intermediate maps (see timm) are those of
    the first member; features are those of all members, concatenated.

    Args:
        members: timm models of one architecture.

    Source:
        Lakshminarayanan et al. 2017, "Simple and scalable predictive uncertainty estimation using deep ensembles"
        (arXiv 1612.01474).
    """

    def __init__(self, members: list[torch.nn.Module]):
        super().__init__()
        self.members = torch.nn.ModuleList(members)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns logits, (N, classes)."""
        return _average([member(x) for member in self.members])

    def forward_features(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Returns the last maps of each member."""
        return [member.forward_features(x) for member in self.members]

    def forward_intermediates(self, x: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Returns the last maps of each member, and all maps of the first."""
        last, maps = self.members[0].forward_intermediates(x)
        return [last, *(member.forward_features(x) for member in self.members[1:])], maps

    def forward_head(self, last: list[torch.Tensor], pre_logits: bool = False) -> torch.Tensor:
        """Returns logits for the members' last maps, or their features."""
        outputs = [member.forward_head(maps, pre_logits=pre_logits)
                   for member, maps in zip(self.members, last, strict=True)]
        return torch.cat(outputs, dim=1) if pre_logits else _average(outputs)


class Mirrored(torch.nn.Module):
    """A model with test-time augmentation: its probabilities are the mean of those of an image and its mirror image.

    Intermediate maps (see timm) are those of the image itself.

    Args:
        model: a timm model.
        multi_label: whether probabilities are sigmoids, not a softmax.
    """

    def __init__(self, model: torch.nn.Module, multi_label: bool = False):
        super().__init__()
        self.model, self.multi_label = model, multi_label

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns logits, (N, classes)."""
        return _average([self.model(x), self.model(x.flip(-1))], self.multi_label)

    def forward_intermediates(self, x: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Returns the last maps of image and mirror image, and all maps of the image."""
        last, maps = self.model.forward_intermediates(x)
        return [last, self.model.forward_features(x.flip(-1))], maps

    def forward_features(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Returns the last maps of image and mirror image."""
        return [self.model.forward_features(x), self.model.forward_features(x.flip(-1))]

    def forward_head(self, last: list[torch.Tensor], pre_logits: bool = False) -> torch.Tensor:
        """Returns logits for these maps, or the mean of their features."""
        outputs = [self.model.forward_head(maps, pre_logits=pre_logits) for maps in last]
        return torch.stack(outputs).mean(dim=0) if pre_logits else _average(outputs, self.multi_label)


def _average(logits: list[torch.Tensor], multi_label: bool = False) -> torch.Tensor:
    """Returns logits whose probabilities are the mean of those of others."""
    if multi_label:
        return torch.stack([each.sigmoid() for each in logits]).mean(dim=0).logit(eps=1e-7)
    return torch.stack([each.log_softmax(dim=1) for each in logits]).logsumexp(dim=0) - math.log(len(logits))


def _at_size(facts: dict) -> dict:
    """Returns what a model with position embeddings or windows must be told of its images' size."""
    config = None
    with contextlib.suppress(RuntimeError):  # an unknown tag is refused below
        config = timm.get_pretrained_cfg(facts["architecture"])
    if not getattr(config, "fixed_input_size", False):
        return {}
    given = facts["input"] if isinstance(facts["input"], dict) else {}
    sides = given.get("size"), given.get("width", given.get("size"))
    if not all(type(side) is int and 0 < side <= MAX_SIDE for side in sides):
        raise ValueError(f"bundle.json: input size or width is not a whole number from 1 to {MAX_SIDE}")
    return {"img_size": sides}


def _describe(make) -> dict[str, torch.Tensor]:
    """Returns a model's tensors without data: a name must not fill the memory with a giant model."""
    try:
        with torch.device("meta"):
            return make().state_dict()
    except (RuntimeError, ValueError):
        pass  # older versions of timm compute values there; an unknown tag is refused below
    try:
        return make().state_dict()
    except RuntimeError as error:
        raise ValueError(f"bundle.json: timm {timm.__version__} cannot make the model: {str(error)[:200]}") from None


def read_facts(folder: str | Path) -> dict:
    """Reads and checks bundle.json; raises as `load_bundle`."""
    text = _read(Path(folder) / "bundle.json", MAX_JSON_BYTES)
    try:
        facts = json.loads(text, object_pairs_hook=_refuse_duplicate_keys, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("bundle.json is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"bundle.json: {error}") from None
    level, depth = [facts], 0
    while level := [item for value in level if isinstance(value, dict | list)
                    for item in (value.values() if isinstance(value, dict) else value)]:
        depth += 1
        if depth > MAX_JSON_DEPTH:
            raise ValueError("bundle.json is nested too deeply")
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise ValueError(f"bundle.json does not have \"format\": \"{FORMAT}\"")
    version = facts.get("version")
    if not isinstance(version, str):
        raise ValueError("bundle.json: version is not a string")
    major = version.partition(".")[0]
    if major not in EXTRA:
        raise ValueError(f"bundle.json has version {version[:20]}; this code reads {'.x and '.join(EXTRA)}.x")
    keys = KEYS | EXTRA[major]
    if facts.keys() != keys:
        raise ValueError(f"bundle.json: the key '{str(sorted(facts.keys() ^ keys)[0])[:40]}' is unknown or missing")
    if "members" in keys and (type(facts["members"]) is not int or not 2 <= facts["members"] <= MAX_MEMBERS):
        raise ValueError(f"bundle.json: members is not a whole number from 2 to {MAX_MEMBERS}")
    if "tta" in keys and (facts["tta"] not in ("none", "flip") or not isinstance(facts["label_delim"], str)
                          or len(facts["label_delim"]) > 1):
        raise ValueError("bundle.json: tta is neither none nor flip, or label_delim is no character")
    classes, files = facts["classes"], facts["files"]
    if not (isinstance(classes, list) and 2 <= len(classes) <= 10_000 and all(isinstance(name, str) for name in classes)
            and len(set(classes)) == len(classes) and isinstance(facts["architecture"], str)):
        raise ValueError("bundle.json: classes must be 2 to 10,000 distinct names, and architecture a name")
    for name in classes:  # they become columns of a table and text on a page
        text = "".join(char for char in name if unicodedata.category(char)[0] != "M" and char not in "\u200c\u200d")
        if not re.fullmatch(r"\w[\w .()&+':%#=?!*@°±≤≥-]*", text):  # marks and joiners are parts of letters
            raise ValueError(f"bundle.json: the class name '{name[:40]}' has characters other than letters, digits, "
                             "spaces and . _ - ( ) & + ' : % # = ? ! * @ ° ± ≤ ≥")
    if not isinstance(files, dict) or not {"weights.safetensors"} <= files.keys() <= FILES:
        raise ValueError(f"bundle.json: files must name weights.safetensors and may name only {sorted(FILES)}")
    return facts


def read_file(folder: str | Path, facts: dict, name: str, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """Returns the content of a file of the bundle; raises ValueError if it is too large or its SHA-256 is wrong."""
    data = _read(Path(folder) / name, max_bytes)
    if hashlib.sha256(data).hexdigest() != facts["files"].get(name):
        raise ValueError(f"{name} was changed since the export: its checksum differs")
    return data


def _read(path: Path, max_bytes: int) -> bytes:
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait forever
        raise ValueError(f"{path.name} is not a regular file")
    if status.st_size > max_bytes:
        raise ValueError(f"{path.name} has {status.st_size:,} bytes; at most {max_bytes:,} are allowed")
    with open(path, "rb") as file:
        return file.read(status.st_size)  # memory for `max_bytes` would be allocated at once


def _refuse_duplicate_keys(pairs: list) -> dict:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key occurs twice")
    return values


def _refuse_constant(name: str):
    raise ValueError(f"{name} is not a number")
