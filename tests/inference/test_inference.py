"""The public names of the package, which notebooks import, exist."""

import busfast.inference


def test_every_public_name_is_imported_when_it_is_first_used():
    assert all(callable(getattr(busfast.inference, name)) for name in busfast.inference.__all__)
