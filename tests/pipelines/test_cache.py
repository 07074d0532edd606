"""The decoded cache: the same pixels as without it, never stale ones, and nothing half-made whatever happens.

Covers busfast/pipelines/image_hashes.py and busfast/pipelines/shards.py, too.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from busfast.cli import main
from busfast.data.images import load_pixels
from busfast.pipelines import cache as cache_module
from busfast.pipelines import image_hashes
from busfast.pipelines.cache import Cache, list_caches
from busfast.pipelines.dataloaders import make_dls
from busfast.pipelines.image import ImagePipeline

IMAGE = ImagePipeline(size=32)


@pytest.fixture
def images(tmp_path, odd_images):
    """A folder with files of every kind; their paths."""
    folder = tmp_path / "images"
    shutil.copytree(next(iter(odd_images.values())).parent, folder)
    return sorted(map(str, folder.iterdir()))


@pytest.fixture
def decoded(monkeypatch):
    """What is decoded, path by path."""
    paths = []

    def remember(path, *args, **kwargs):
        paths.append(str(path))
        return load_pixels(path, *args, **kwargs)
    monkeypatch.setattr(cache_module, "load_pixels", remember)
    return paths


def opened(images, where, image=IMAGE):
    return Cache(str(where), Path(images[0]).parent, images).pixels(image)


def right(pixels, images, image=IMAGE):
    return all(np.array_equal(pixels.read(path), load_pixels(path, *image.fit)) for path in images)


def shards(where):
    return sorted(Path(where).rglob("*.pixels"))


@pytest.mark.parametrize("image", [IMAGE, ImagePipeline(size=40, resize="pad"), ImagePipeline(size=32, resize="crop"),
                                   ImagePipeline(size=32, channels="gray")], ids=lambda image: str(image.fit))
def test_cached_pixels_are_the_reference_to_the_last_bit_and_decoded_once(tmp_path, images, decoded, image):
    for _ in range(2):
        assert right(opened(images, tmp_path / "kept", image), images, image)
    assert sorted(decoded) == images


def test_batches_are_the_same_with_and_without_a_cache(tmp_path, parts):
    batches = []
    for cache in ("off", str(tmp_path / "kept")):
        torch.manual_seed(7)
        dls = make_dls(parts, ImagePipeline(size=128), bs=16, loader="torchvision", device="cpu", cache=cache)
        dls.train.rng.seed(5)
        batches.append([*dls.train, *dls.valid])
    assert shards(tmp_path / "kept")
    for (x, y), (x2, y2) in zip(*batches, strict=True):
        assert torch.equal(x, x2) and torch.equal(y, y2)


def test_an_image_that_changes_is_decoded_anew_even_if_its_size_and_time_are_set_back(tmp_path, images, decoded):
    opened(images, tmp_path / "kept")
    path = next(path for path in images if path.endswith("gray.bmp"))
    before = os.stat(path)
    data = bytearray(Path(path).read_bytes())
    data[-3000:] = bytes(3000)
    Path(path).write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert os.stat(path).st_size == before.st_size and os.stat(path).st_mtime_ns == before.st_mtime_ns
    decoded.clear()
    pixels = opened(images, tmp_path / "kept")
    assert decoded == [path] and right(pixels, images)


def test_files_that_were_only_touched_or_moved_are_not_decoded_again(tmp_path, images, decoded, monkeypatch):
    opened(images, tmp_path / "kept")
    decoded.clear()
    for path in images:
        os.utime(path)
    moved = [str(Path(path).with_name(f"new-{Path(path).name}")) for path in images]
    for path, other in zip(images, moved, strict=True):
        os.rename(path, other)
    pixels = opened(moved, tmp_path / "kept")
    assert decoded == [] and right(pixels, moved)


def test_what_is_settled_is_not_even_hashed_again(tmp_path, images, monkeypatch):
    hashed = []
    monkeypatch.setattr(image_hashes, "SETTLED", 0)
    original = image_hashes._hash_file
    monkeypatch.setattr(image_hashes, "_hash_file", lambda path: (hashed.append(path), original(path))[1])
    opened(images, tmp_path / "kept")
    opened(images, tmp_path / "kept")
    assert sorted(hashed) == images


def test_new_images_are_added_and_another_size_has_pixels_of_its_own(tmp_path, images, decoded):
    opened(images[:5], tmp_path / "kept")
    decoded.clear()
    assert right(opened(images, tmp_path / "kept"), images)
    assert sorted(decoded) == images[5:]
    other = ImagePipeline(size=64)
    assert right(opened(images, tmp_path / "kept", other), images, other)
    assert right(opened(images, tmp_path / "kept"), images)


@pytest.mark.parametrize("harm", ["cut", "emptied", "foreign", "footer", "pixel"])
def test_a_damaged_file_is_noticed_and_made_anew(tmp_path, images, decoded, harm, capsys):
    opened(images, tmp_path / "kept")
    path, = shards(tmp_path / "kept")
    data = path.read_bytes()
    broken = bytearray(data)
    broken[100 if harm == "pixel" else -60] ^= 255
    path.write_bytes({"cut": data[:len(data) // 2], "emptied": b"", "foreign": b"a letter\n" * 500}.get(harm, broken))
    decoded.clear()
    pixels = opened(images, tmp_path / "kept")
    assert right(pixels, images)
    assert "decoded again" in capsys.readouterr().out
    assert right(opened(images, tmp_path / "kept"), images)
    assert all(shard.read_bytes() != broken for shard in shards(tmp_path / "kept"))


def test_a_file_that_is_cut_short_while_it_is_in_use_is_noticed(tmp_path, images):
    pixels = opened(images, tmp_path / "kept")
    path, = shards(tmp_path / "kept")
    os.truncate(path, 1000)
    assert right(pixels, images)


def test_somebody_elses_files_in_the_folder_stay(tmp_path, images):
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "thesis.txt").write_text("mine")
    opened(images, kept)
    assert main(["cache", f"--folder={kept}", "--clear"]) == 0
    assert [path.name for path in kept.iterdir()] == ["thesis.txt"]


BUILD = """
import sys
from pathlib import Path
from busfast.pipelines import cache as module
from busfast.pipelines.image import ImagePipeline
module.IMAGES, module.SHARDS = 8, 1000
images = sorted(map(str, Path(sys.argv[1]).iterdir()))
pixels = module.Cache(sys.argv[2], sys.argv[1], images).pixels(ImagePipeline(size=128))
print("whole", len(pixels.numbers))
"""


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A folder with 240 images that take a moment to decode."""
    folder = tmp_path_factory.mktemp("many")
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    for number in range(240):
        Image.fromarray(np.roll(noise, number)).save(folder / f"{number:03}.png", compress_level=1)
    return folder


def build(many, kept):
    return subprocess.Popen([sys.executable, "-c", BUILD, str(many), str(kept)], stdout=subprocess.PIPE, text=True)


def test_builders_that_are_killed_leave_nothing_half_valid_and_what_is_whole_is_used(tmp_path, many):
    kept, image = tmp_path / "kept", ImagePipeline(size=128)
    seen = set()
    for wait in (1, 4, 9, 14):  # killed after so many whole shards
        process = build(many, kept)
        while process.poll() is None and len(shards(kept)) < wait:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        seen.add(len(shards(kept)))
    assert 0 < max(seen) < 30  # it was not done before it was killed
    images = sorted(map(str, many.iterdir()))
    assert right(opened(images, kept, image), images, image)
    folder, = kept.iterdir()
    assert {path.suffix for path in folder.iterdir() if path.name != ".lock"} == {".pixels", ".json", ".jsonl"}


def test_two_builders_at_once_do_not_harm_each_other(tmp_path, many):
    processes = [build(many, tmp_path / "kept") for _ in range(2)]
    said = [process.communicate(timeout=120)[0] for process in processes]
    assert all("whole 240" in words for words in said)
    assert sum("decoding" in words for words in said) == 1  # the other one waited
    images, image = sorted(map(str, many.iterdir())), ImagePipeline(size=128)
    assert right(opened(images, tmp_path / "kept", image), images, image)
    assert sum(path.stat().st_size for path in shards(tmp_path / "kept")) < 1.1 * 240 * 128 * 128 * 3


@pytest.fixture
def small_disk(tmp_path):
    """A disk of its own, of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("a small disk can only be mounted by root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_too_small_is_said_before_anything_is_decoded(small_disk, many, decoded, capsys):
    images = sorted(map(str, many.iterdir()))
    assert opened(images, small_disk, ImagePipeline(size=128)) is None
    said = capsys.readouterr().out
    assert "need up to 12 MB, 2 MB are free" in said and "--cache=FOLDER" in said
    assert decoded == [] and shards(small_disk) == []


def test_a_disk_that_fills_up_in_the_middle_leaves_training_without_a_cache(small_disk, many, monkeypatch, capsys):
    monkeypatch.setattr(Cache, "_check_space", lambda *args: None)
    images, image = sorted(map(str, many.iterdir())), ImagePipeline(size=128)
    assert opened(images, small_disk, image) is None
    assert "cache: none" in capsys.readouterr().out and shards(small_disk) == []


def test_a_disk_that_is_too_small_does_not_stop_a_training(small_disk, workdir, capsys):
    (small_disk / "full").write_bytes(bytes(1_950_000))
    assert main(["train", "--epochs=1", f"--cache={small_disk}"]) == 0
    assert "cache: none" in capsys.readouterr().out
    assert "cached_images: 0" in Path("results/phantom/stratified/config.yaml").read_text()


def test_auto_takes_no_more_than_half_of_the_free_disk(images, monkeypatch, capsys):
    need = 32 * 32 * 3 * len(images) + 200 * len(images)
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda folder: type("Disk", (), {"free": need}))
    assert opened(images, "auto") is None
    assert "no more than 50%" in capsys.readouterr().out


def test_cache_can_be_switched_off_for_all(images, monkeypatch, capsys):
    monkeypatch.setenv("BUSFAST_CACHE", "off")
    assert opened(images, "auto") is None
    assert "BUSFAST_CACHE=off" in capsys.readouterr().out


def test_the_verb_fills_shows_and_clears(tmp_path, phantom_folder, monkeypatch, capsys):
    monkeypatch.setenv("BUSFAST_CACHE", str(tmp_path / "mine"))
    monkeypatch.chdir(tmp_path)
    assert main(["cache"]) == 0
    assert "nothing" in capsys.readouterr().out
    assert main(["cache", f"--data={phantom_folder}", "--size=48"]) == 0
    row, = list_caches(tmp_path / "mine" / "pixels")
    assert row["images"] == str(phantom_folder) and row["size"] == 48 and row["mb"] > 90 * 48 * 48 / 1e6
    assert f"48 px  used {time.strftime('%Y')}" in capsys.readouterr().out
    assert main(["cache", "--clear"]) == 0
    assert list_caches(tmp_path / "mine" / "pixels") == [] and shards(tmp_path) == []


@pytest.mark.parametrize(("words", "message"), [
    (["cache", "--data=x", "--clear"], "give one of them"), (["cache", "--size=64"], "give that, too"),
    (["cache", "--data=nowhere"], "nowhere")])
def test_wrong_words_are_refused(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert message in capsys.readouterr().err
