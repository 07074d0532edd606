"""A misspelt model or optimizer is refused by timm's source files, which name exactly what timm itself lists."""

import re

import pytest
import timm
from timm.models import get_deprecated_models
from timm.optim import list_optimizers

from busfast.errors import UserError
from busfast.timm_names import MODEL, OPTIMIZER, names_without, refuse_unknown_model


def test_the_source_files_have_the_names_that_timm_lists():
    assert set(names_without("no such name", "models", MODEL)) == set(timm.list_models())
    own = {name for name in names_without("no such name", "optim", OPTIMIZER) if not name.startswith(("bnb", "fused"))}
    assert own == set(list_optimizers(exclude_filters=["bnb*", "fused*"]))  # those need packages, and are not offered


def test_no_name_that_timm_has_is_refused(monkeypatch):
    texts = {}
    monkeypatch.setattr("pathlib.Path.read_text", lambda file, **_: texts.setdefault(file, file.read_bytes().decode()))
    monkeypatch.setattr(re, "findall", lambda *_: ["reached"])  # only for a name that is not there
    for name in (*timm.list_models()[::50], *list(get_deprecated_models())[::20], *timm.list_pretrained()[::80]):
        refuse_unknown_model(name)
        refuse_unknown_model(f"hf-hub:timm/{name}")
    assert not any(names_without(name, "optim", OPTIMIZER) for name in list_optimizers())


@pytest.mark.parametrize("arch", ["efficientnet_b00", "efficientnet_b00.ra_in1k", "timm/efficientnet_b00"])
def test_an_unknown_model_is_named_with_the_nearest(arch):
    with pytest.raises(UserError, match=f"Unknown model '{arch}'. Did you mean 'efficientnet_b0"):
        refuse_unknown_model(arch)


def test_without_timms_source_files_timm_decides(tmp_path, monkeypatch):
    monkeypatch.setattr("busfast.timm_names.find_spec", lambda _: None)
    refuse_unknown_model("efficientnet_b00")
