"""A search for near-duplicates is done once for the same images, and its cache changes nothing of the result."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from busfast.data import duplicate_cache
from busfast.data.duplicate_cache import cached_near_duplicates
from busfast.data.duplicates import near_duplicates
from busfast.data.fingerprint import fingerprint_images


@pytest.fixture
def prints(tmp_path):
    """Fingerprints of four pictures, a smaller copy of the first one, and a broken file."""
    rng = np.random.default_rng(0)
    for number in range(4):
        pixels = Image.fromarray(rng.integers(0, 256, (10, 12), dtype=np.uint8))
        pixels.resize((120, 100), Image.Resampling.BICUBIC).save(tmp_path / f"{number}.png")
    Image.open(tmp_path / "0.png").resize((60, 50)).save(tmp_path / "half.jpg")
    (tmp_path / "text.png").write_text("not an image")
    return fingerprint_images(sorted(tmp_path.iterdir()))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BUSFAST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def forbid(monkeypatch):
    def search(prints):
        raise AssertionError("searched again")
    monkeypatch.setattr(duplicate_cache, "near_duplicates", search)


def test_the_second_search_reads_the_very_result_of_the_first(prints, cache, monkeypatch):
    first = cached_near_duplicates(prints)
    assert len(first) == 1
    pd.testing.assert_frame_equal(first, near_duplicates(prints))
    forbid(monkeypatch)
    pd.testing.assert_frame_equal(cached_near_duplicates(prints), first)


def test_other_images_or_another_order_are_searched_anew(prints, cache):
    cached_near_duplicates(prints)
    for other in (prints.iloc[1:].reset_index(drop=True), prints.iloc[::-1].reset_index(drop=True)):
        pd.testing.assert_frame_equal(cached_near_duplicates(other), near_duplicates(other))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not all of a zip", b"text"])
def test_a_damaged_file_is_replaced(prints, cache, content, monkeypatch):
    first = cached_near_duplicates(prints)
    file, = cache.glob("duplicates-*.npz")
    file.write_bytes(content)
    pd.testing.assert_frame_equal(cached_near_duplicates(prints), first)
    forbid(monkeypatch)
    pd.testing.assert_frame_equal(cached_near_duplicates(prints), first)


def test_without_a_cache_nothing_is_written(prints, cache, monkeypatch, tmp_path):
    monkeypatch.setenv("BUSFAST_CACHE", "off")
    before = set(tmp_path.rglob("*"))
    assert len(cached_near_duplicates(prints)) == 1
    assert set(tmp_path.rglob("*")) == before


def test_images_without_a_duplicate_are_cached_too(prints, cache, monkeypatch):
    alone = prints.iloc[1:3].reset_index(drop=True)
    assert cached_near_duplicates(alone).empty
    forbid(monkeypatch)
    assert list(cached_near_duplicates(alone)) == ["a", "b", "similarity", "mirrored"]
