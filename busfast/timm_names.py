"""The names of timm's models and optimizers, from its source files: a misspelt one needs no import of timm and torch.

Only refusals are decided here. A name that the files hold anywhere, as a function or in quotes, is left to timm itself.
"""

import re
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from busfast.errors import UserError, suggest

MODEL = r"^@register_model\s+def (\w+)"
OPTIMIZER = r"\b(?:name=|register_alias\()['\"](\w+)"


def names_without(name: str, folder: str, pattern: str) -> list[str]:
    """Returns all names if `name` is none of them for sure; [] if timm has to be asked.

    Args:
        name: as given.
        folder: of timm's package, "models" or "optim".
        pattern: what finds a name in its files, `MODEL` or `OPTIMIZER`.
    """
    timm = find_spec("timm")
    files = Path(timm.origin).parent.glob(f"{folder}/*.py") if timm is not None and timm.origin else ()
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    if re.search(rf"""(def |['"]){re.escape(name)}\b""", text):
        return []
    return sorted(set(re.findall(pattern, text, re.MULTILINE)))


def plain_name(arch: str) -> str:
    """Returns timm's name of a model for one of timm's on the hub, timm/NAME or hf-hub:timm/NAME, and any other as it
    is."""
    return re.sub(r"^(hf[-_]hub:)?timm/", "", arch)


def unknown_model(arch: str, models: Iterable[str]) -> UserError:
    """Returns the error of a model that is none of timm's `models`."""
    models = list(models)
    hub = " Of the hub, only timm/NAME is a model's name; for others give --arch=NAME --weights=FILE." \
        if set(":/") & set(arch) else ""
    return UserError(f"Unknown model '{arch}'.{suggest(plain_name(arch), models)}{hub} Use any of the {len(models)} "
                     "names of timm.list_models(), such as efficientnet_b0 or resnet50.")


def refuse_unknown_model(arch: str) -> None:
    """Raises `unknown_model` for a name that timm does not have; `busfast.models.arch.check_arch` decides the rest."""
    if models := names_without(plain_name(arch).partition(".")[0], "models", MODEL):
        raise unknown_model(arch, models)
