"""Modules are imported on first use, and a missing optional package is named with the command that installs it."""

import pytest

from busfast.errors import UserError
from busfast.imports import lazy_names, require_package


def test_a_name_is_imported_from_its_module_and_an_unknown_one_is_an_attribute_error():
    get = lazy_names("busfast.data", {"match_label": ".labels", "counted": "busfast.text"})
    assert get("match_label").__module__ == "busfast.data.labels" and get("counted").__module__ == "busfast.text"
    with pytest.raises(AttributeError, match="module 'busfast.data' has no attribute 'nothing'"):
        get("nothing")


def test_an_installed_package_passes_and_a_missing_one_names_the_command():
    require_package("numpy", "A test needs NumPy", "pip install numpy")
    for module in ("busfast_absent", "busfast_absent.inner"):
        with pytest.raises(UserError, match="A test needs it: pip install absent"):
            require_package(module, "A test needs it", "pip install absent")
