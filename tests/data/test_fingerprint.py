"""Fingerprints describe every kind of image, and only new or changed files are decoded again."""

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from busfast.data import fingerprint
from busfast.data.fingerprint import SIDE, fingerprint_images
from busfast.data.images import read_image


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BUSFAST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def decoded(monkeypatch):
    """The names of the files that were decoded, as they are."""
    names = []
    read = fingerprint.fingerprint
    monkeypatch.setattr(fingerprint, "fingerprint", lambda path: names.append(os.path.basename(path)) or read(path))
    return names


@pytest.fixture
def folder(tmp_path, odd_images):
    """Three files in a folder of their own: gray, color, cut short."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("gray.png", "rgb.jpg"):
        (folder / name).write_bytes(odd_images[name].read_bytes())
    (folder / "short.jpg").write_bytes(odd_images["rgb.jpg"].read_bytes()[:-2000])
    return folder


def huge_png(width, height):
    """A PNG that claims a size and holds nothing of it."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_every_kind_of_image_has_a_fingerprint(odd_images):
    prints = fingerprint_images(list(odd_images.values()))
    assert set(prints["reason"]) == {""}
    for row, path in zip(prints.itertuples(), odd_images.values(), strict=True):
        image = read_image(path)
        assert (row.width, row.height) == image.size, path
        assert (row.low, row.high) == image.convert("L").getextrema(), path
        assert len(row.thumbnail) == SIDE * SIDE and len(row.pixels) == 32


def test_the_mode_is_that_of_the_file(odd_images):
    names = ["gray.jpg", "gray_alpha.png", "black_white.png", "12_bit.png", "12_bit.tif", "float.tif", "rgb.jpg",
             "palette.png", "cmyk.jpg", "rgba.png"]
    assert list(fingerprint_images([odd_images[name] for name in names])["mode"]) == [
        "gray 8", "gray 8", "gray 1", "gray 16", "gray 16", "gray 32", "color 8", "color 8", "color 8", "color 8"]


def test_the_same_pixels_have_the_same_hash_in_every_format_and_no_other_pixels_have(odd_images):
    pixels = dict(zip(odd_images, fingerprint_images(list(odd_images.values()))["pixels"], strict=True))
    assert len({pixels[name] for name in ("gray.png", "gray.bmp", "gray.tif")}) == 1
    assert len({pixels[name] for name in ("rgb.png", "rgb.bmp", "rgb.tif", "lzw.tif")}) == 1
    assert len({pixels[name] for name in ("gray.png", "rgb.png", "gray.jpg", "rotated.png", "float.tif")}) == 5


def test_the_same_bytes_of_another_shape_are_another_image(tmp_path):
    values = np.arange(200, dtype=np.uint8)
    Image.fromarray(values.reshape(10, 20)).save(tmp_path / "wide.png")
    Image.fromarray(values.reshape(20, 10)).save(tmp_path / "tall.png")
    assert fingerprint_images([tmp_path / "wide.png", tmp_path / "tall.png"])["pixels"].nunique() == 2


def test_what_cannot_be_read_says_why_in_the_words_of_the_check(folder):
    (folder / "text.png").write_text("no image")
    paths = [folder / "short.jpg", folder / "absent.png", folder / "text.png", folder, folder / "gray.png"]
    prints = fingerprint_images(paths)
    assert prints["reason"][1] == "no such file" and prints["reason"][2].startswith("UnidentifiedImageError: cannot")
    assert prints["reason"][3].startswith("IsADirectoryError") and prints["reason"][4] == ""
    assert prints["reason"][0].startswith("OSError: image file is truncated")
    assert (prints.loc[:3, ["width", "height", "low", "high"]] == 0).all(axis=None)
    assert set(prints["pixels"][:4]) == {""} and set(prints["thumbnail"][:4]) == {b""}


@pytest.mark.parametrize(("side", "words"), [(60_000, "3600000000; the"), (14_000, "--max_pixels=196000000")])
def test_a_huge_image_is_refused_undecoded_and_without_a_warning(tmp_path, side, words, recwarn):
    (tmp_path / "huge.png").write_bytes(huge_png(side, side))
    reason = fingerprint_images([tmp_path / "huge.png"])["reason"][0]
    assert reason.startswith("too many pixels to decode") and words in reason
    assert not recwarn.list


def test_a_constant_image_is_known_by_its_extremes(tmp_path):
    Image.new("RGB", (30, 20), (40, 40, 40)).save(tmp_path / "flat.png")
    assert fingerprint_images([tmp_path / "flat.png"]).loc[0, ["low", "high"]].tolist() == [40, 40]


def test_no_images_make_an_empty_table_and_a_path_given_twice_two_rows(folder):
    assert list(fingerprint_images([])) == list(fingerprint_images([folder / "gray.png"]))
    assert len(fingerprint_images([])) == 0
    twice = fingerprint_images([folder / "gray.png", str(folder / "gray.png")])
    assert twice.loc[0].equals(twice.loc[1])


@pytest.mark.parametrize("threads", [1, 4])
def test_the_second_call_decodes_nothing_and_says_the_same(folder, decoded, threads):
    first = fingerprint_images(sorted(folder.iterdir()), threads)
    assert sorted(decoded) == ["gray.png", "rgb.jpg", "short.jpg"]
    decoded.clear()
    assert fingerprint_images(sorted(folder.iterdir()), threads).equals(first)
    assert decoded == []


def test_only_a_changed_file_is_read_again(folder, decoded, odd_images):
    before = fingerprint_images(sorted(folder.iterdir()))
    decoded.clear()
    (folder / "short.jpg").write_bytes(odd_images["rgb.jpg"].read_bytes())
    os.utime(folder / "gray.png", ns=(1, 1))
    after = fingerprint_images(sorted(folder.iterdir()))
    assert sorted(decoded) == ["gray.png", "short.jpg"]
    assert list(after["reason"]) == ["", "", ""] and after.loc[:1].equals(before.loc[:1])


def test_a_part_of_a_folder_does_not_forget_the_rest(folder, decoded, odd_images):
    paths = sorted(folder.iterdir())
    fingerprint_images(paths)
    (folder / "gray.png").write_bytes(odd_images["rgb.png"].read_bytes())
    fingerprint_images(paths[:1])
    decoded.clear()
    fingerprint_images(paths)
    assert decoded == []


def test_a_file_that_was_absent_is_looked_for_again(folder):
    assert fingerprint_images([folder / "late.png"])["reason"][0] == "no such file"
    (folder / "late.png").write_bytes((folder / "gray.png").read_bytes())
    assert fingerprint_images([folder / "late.png"])["reason"][0] == ""


def test_a_damaged_foreign_or_outdated_cache_is_replaced(folder, cache, decoded, monkeypatch):
    paths = sorted(folder.iterdir())
    first = fingerprint_images(paths)
    place, = cache.iterdir()
    whole = place.read_bytes()
    for bad in (whole[:-300], whole[:100], b"", b"no cache", b"PK\x03\x04" + bytes(500)):
        place.write_bytes(bad)
        decoded.clear()
        assert fingerprint_images(paths).equals(first)
        assert len(decoded) == len(paths)
        assert fingerprint.read_cache(place).keys() == {str(path) for path in paths}
    monkeypatch.setattr(fingerprint, "VERSION", "a later one")
    decoded.clear()
    assert fingerprint_images(paths).equals(first)
    assert len(decoded) == len(paths)


def test_a_pickle_in_the_cache_is_not_loaded(folder, cache):
    fingerprint_images(sorted(folder.iterdir()))
    place, = cache.iterdir()
    with open(place, "wb") as file:
        np.savez(file, text=np.array([{"version": fingerprint.VERSION}], dtype=object))
    assert fingerprint.read_cache(place) == {}


def test_where_the_cache_cannot_be_written_the_images_are_still_read(folder, cache):
    cache.write_text("a file where the folder should be")
    assert list(fingerprint_images(sorted(folder.iterdir()))["reason"] == "") == [True, True, False]
    assert cache.read_text() == "a file where the folder should be"


def test_each_data_folder_has_its_own_cache_file_and_only_the_user_reads_them(folder, cache, odd_images):
    fingerprint_images(sorted(folder.iterdir()))
    place, = cache.iterdir()
    size = place.stat().st_size
    fingerprint_images(list(odd_images.values()))
    assert len(list(cache.iterdir())) == 2
    assert place.stat().st_size == size
    if os.name == "posix":
        assert cache.stat().st_mode & 0o777 == 0o700


def test_what_was_read_before_an_interruption_is_kept(folder, decoded, monkeypatch):
    watched = fingerprint.fingerprint

    def interrupted(path):
        if path.endswith("short.jpg"):
            raise KeyboardInterrupt
        return watched(path)

    monkeypatch.setattr(fingerprint, "fingerprint", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fingerprint_images(sorted(folder.iterdir()), threads=1)
    monkeypatch.setattr(fingerprint, "fingerprint", watched)
    decoded.clear()
    fingerprint_images(sorted(folder.iterdir()))
    assert decoded == ["short.jpg"]
