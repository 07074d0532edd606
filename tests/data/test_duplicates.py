"""Duplicates are found whatever was done to them, and nothing else is paired.

Covers busfast/data/alignment.py, too.
"""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps
from scipy.ndimage import gaussian_filter

from busfast.data import read_table
from busfast.data.duplicates import candidate_pairs, describe, exact_duplicates, near_duplicates
from busfast.data.fingerprint import SIDE, fingerprint_images
from busfast.data.groups import connected


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("BUSFAST_CACHE", str(tmp_path_factory.getbasetemp() / "fingerprints"))


@pytest.fixture(scope="module")
def scans():
    """Twelve made-up scans: structure of all sizes, darker below."""
    rng = np.random.default_rng(5)
    fade = np.linspace(1, 0.4, 180)[:, None]
    fields = [sum(gaussian_filter(rng.normal(0, 1, (180, 240)), blur) * blur for blur in (2, 5, 12)) for _ in range(12)]
    return [Image.fromarray(((128 + 55 * field / field.std()) * fade).clip(0, 255).astype(np.uint8))
            for field in fields]


@pytest.fixture
def prints_of(tmp_path):
    """Fingerprints of Pillow images, saved as PNG."""
    def prints_of(images):
        paths = [tmp_path / f"{number}.png" for number in range(len(images))]
        for path, image in zip(paths, images, strict=True):
            image.save(path)
        return fingerprint_images(paths)
    return prints_of


def marked(image):
    """With calipers and text burned in, as scanners do."""
    image = image.copy()
    draw = ImageDraw.Draw(image)
    for x, y in ((80, 60), (150, 110)):
        draw.line((x - 5, y, x + 5, y), fill=255)
        draw.line((x, y - 5, x, y + 5), fill=255)
    draw.text((10, 160), "RT BREAST 3:00  D1 1.2 cm", fill=255)
    return image


CHANGES = {
    "brighter": lambda image: image.point([min(255, value + 30) for value in range(256)]),
    "less contrast": lambda image: image.point([int(50 + value * 0.6) for value in range(256)]),
    "gamma": lambda image: image.point([int(255 * (value / 255) ** 1.6) for value in range(256)]),
    "smaller": lambda image: image.resize((144, 108), Image.Resampling.BICUBIC),
    "marked": marked,
    "5% off the top": lambda image: image.crop((0, 9, 240, 180)),
    "5% off each side": lambda image: image.crop((12, 9, 228, 171)),
    "7% off the left": lambda image: image.crop((17, 0, 240, 180)),
    "mirrored": ImageOps.mirror,
    "mirrored, marked and cropped": lambda image: marked(ImageOps.mirror(image)).crop((0, 4, 235, 180)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found_and_nothing_else(change, scans, prints_of):
    count = len(scans)
    found = near_duplicates(prints_of(scans + [CHANGES[change](scan) for scan in scans]))
    assert sorted(zip(found["a"], found["b"], strict=True)) == [(row, row + count) for row in range(count)]
    assert (found["mirrored"] == ("mirrored" in change)).all()
    assert found["similarity"].is_monotonic_decreasing and found["similarity"].between(0.6, 1.0001).all()


def test_a_copy_saved_as_a_poor_jpeg_is_found(scans, tmp_path):
    paths = [tmp_path / "a.png", tmp_path / "b.jpg", tmp_path / "c.png"]
    scans[0].save(paths[0])
    scans[0].save(paths[1], quality=30)
    scans[1].save(paths[2])
    prints = fingerprint_images(paths)
    assert exact_duplicates(prints) == []
    assert near_duplicates(prints)[["a", "b"]].to_numpy().tolist() == [[0, 1]]


def test_scans_in_one_frame_of_a_scanner_are_not_paired_and_their_copies_are(scans, prints_of):
    rng = np.random.default_rng(7)
    frame = Image.new("L", (400, 300))
    draw = ImageDraw.Draw(frame)
    for y in range(5, 290, 12):
        draw.text((4, y), f"DR {rng.integers(99)} G{rng.integers(99)}", fill=220)
        draw.text((335, y), f"MI {rng.integers(9)}.{rng.integers(9)}", fill=220)
    screens = []
    for scan in [*scans, *[ImageOps.flip(scan) for scan in scans], marked(scans[3])]:
        screens.append(frame.copy())
        screens[-1].paste(scan, (80, 60))
    assert near_duplicates(prints_of(screens))[["a", "b"]].to_numpy().tolist() == [[3, 24]]


def test_the_phantoms_of_different_patients_are_not_paired(phantom_folder):
    table = read_table(phantom_folder)
    prints = fingerprint_images([phantom_folder / name for name in table.rows["image"]])
    pairs = near_duplicates(prints)
    patients = table.rows["patient"].to_numpy()
    assert (patients[pairs["a"]] == patients[pairs["b"]]).all()


def test_exact_duplicates_are_found_across_formats(odd_images):
    names = ["gray.png", "rgb.bmp", "gray.bmp", "rgb.jpg", "rgb.tif", "gray.tif", "lzw.tif"]
    prints = fingerprint_images([odd_images[name] for name in names])
    assert exact_duplicates(prints) == [[0, 2, 5], [1, 4, 6]]
    groups = connected(len(names), *near_duplicates(prints)[["a", "b"]].to_numpy().T)
    assert groups[0] == groups[2] == groups[5] and groups[1] == groups[4] == groups[6]


def test_many_identical_images_are_chained(scans, prints_of):
    prints = prints_of([scans[0]] * 40 + [scans[1]])
    found = near_duplicates(prints)
    assert len(found) == 39 and (found["similarity"] == 1).all()
    assert connected(41, *found[["a", "b"]].to_numpy().T).tolist() == [0] * 40 + [1]
    assert exact_duplicates(prints) == [list(range(40))]


def test_unreadable_and_constant_images_match_nothing(tmp_path, scans):
    paths = []
    for number in range(2):
        paths += [tmp_path / f"black_{number}.png", tmp_path / f"short_{number}.png", tmp_path / f"absent_{number}.png"]
        Image.new("L", (50, 50)).save(paths[-3])
        scans[0].save(paths[-2])
        paths[-2].write_bytes(paths[-2].read_bytes()[:2000])
    prints = fingerprint_images(paths)
    assert exact_duplicates(prints) == [] and len(near_duplicates(prints)) == 0


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_images_are_no_error(count, scans, prints_of):
    prints = prints_of(scans[:count])
    assert exact_duplicates(prints) == []
    assert list(near_duplicates(prints)) == ["a", "b", "similarity", "mirrored"] and len(near_duplicates(prints)) == 0


def test_the_result_depends_neither_on_the_order_nor_on_the_threads(scans, prints_of):
    prints = prints_of(scans + [CHANGES["marked"](scan) for scan in scans[:6]])
    order = np.random.default_rng(1).permutation(len(prints))
    found, again = near_duplicates(prints, threads=1), near_duplicates(prints, threads=3)
    assert found.equals(again)
    turned = near_duplicates(prints.iloc[order].reset_index(drop=True))
    assert {frozenset((order[a], order[b])) for a, b in zip(turned["a"], turned["b"], strict=True)} == {
        frozenset(pair) for pair in zip(found["a"], found["b"], strict=True)}


def brute_force(thumbnails, least, nearest):
    """Step 1 in plain words: the descriptors of each image and of its mirror image, all pairs, the best of each."""
    vectors, _ = describe(thumbnails)
    half = SIDE // 4
    even, odd = (vectors[:, part].reshape(len(vectors), -1, half) for part in (0, 1))
    whole = np.concatenate([even + odd, (even - odd)[:, :, ::-1]], axis=2) / 2 ** 0.5
    mirror = whole[:, :, ::-1]
    plain, turned = (np.tensordot(whole, other, ((1, 2), (1, 2))) for other in (whole, mirror))
    score = np.maximum(plain, turned)
    np.fill_diagonal(score, -1)
    pairs = set()
    for row in range(len(score)):
        for other in np.argsort(-score[row])[:nearest]:
            if score[row, other] >= least:
                a, b = sorted((row, int(other)))
                pairs.add((a, b, bool(turned[a, b] > plain[a, b])))
    return sorted(pairs)


@pytest.mark.parametrize("nearest", [3, 1000])
def test_the_search_finds_exactly_what_brute_force_finds(nearest):
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, (2300, SIDE, SIDE)).astype(np.float32)  # more than one tile each way
    noise = gaussian_filter(noise, (0, 6, 6))
    noise[:40] = noise[2200:2240, :, ::-1] + rng.normal(0, 0.01, (40, SIDE, SIDE))
    noise[40:60] = noise[2250]  # crowded
    noise[40:60] += rng.normal(0, 0.01, (20, SIDE, SIDE))
    thumbnails = (128 + 1200 * noise).clip(0, 255).astype(np.uint8)
    a, b, mirrored = candidate_pairs(describe(thumbnails)[0], 0.6, nearest)
    found = list(zip(a.tolist(), b.tolist(), mirrored.tolist(), strict=True))
    assert found == brute_force(thumbnails, 0.6, nearest)
    assert len(found) > 100 and 40 <= mirrored.sum() < len(found)


def test_groups_are_joined_by_chains():
    assert connected(6, [0, 3, 1], [3, 5, 2]).tolist() == [0, 1, 1, 0, 2, 0]
    assert connected(3, [], []).tolist() == [0, 1, 2]
