"""Finds images that are the same picture, so that no split puts one copy into training and another into the test.

Three steps on the local contrast of gray thumbnails, in which brightness, gain and gamma hardly show:

1. Every image against every other, mirrored too, by one number each: the correlation of 256-number descriptors.
2. Those alike in step 1 are laid on each other (shift and scale along each axis: a crop does no more to a picture).
3. What they share of the finest detail then decides, after what all images of the data set have in common (the frame
   of the scanner's screen, the anatomy of a standard view) has been taken out.

Shared low frequencies (bright above, dark below) make 64-bit perceptual hashes of ultrasound images collide.
`python -m busfast.bench.duplicates` measures it.
"""


import numpy as np
import pandas as pd

from busfast.data.alignment import FINE, compare, halve, local_contrast
from busfast.data.fingerprint import SIDE

ALIKE = 0.5  # step 1: a copy cropped by 5% passes, one pair of strangers in some thousand does
SAME = 0.6  # step 3: copies reach 0.7; strangers stayed below 0.5 in ultrasound, 0.35 in knees seen from the front
NEAREST = 8  # step 2 looks at no more than this many images for each image, however alike all of them are
SHARED = 0.5  # how much of the common picture is taken out; all of it would leave nothing of a set of mere copies


def exact_duplicates(prints: pd.DataFrame) -> list[list[int]]:
    """Groups the images whose upright 8-bit pixels are the same, whatever their file format.

    Args:
        prints: what `fingerprint_images` returned, one row an image.

    Returns:
        Row positions of each group of two or more, ascending, in the order of their first. Unreadable and
        constant images are in none: all black frames are alike and say nothing of a patient.
    """
    pixels = prints["pixels"].to_numpy()
    groups: dict[str, list[int]] = {}
    for row in comparable(prints):
        groups.setdefault(pixels[row], []).append(int(row))
    return [rows for rows in groups.values() if len(rows) > 1]


def near_duplicates(prints: pd.DataFrame, same: float = SAME, threads: int | None = None) -> pd.DataFrame:
    """Finds pairs of images that are one picture: saved again, resized, brightened, marked, cropped or mirrored.

    Args:
        prints: what `fingerprint_images` returned, one row an image.
        same: correlation from which two aligned images are one picture, 0 to 1.
        threads: how many to align with; all cores by default. The result does not depend on it.

    Returns:
        One row a pair, the most alike first: a, b (row positions, a < b), similarity (correlation after alignment)
        and mirrored (left and right are exchanged). Exact duplicates are among them. Images with the same thumbnail
        are chained, k images by k - 1 pairs, so not every pair of a group is listed; use
        `busfast.data.groups.connected`.
        Unreadable and constant images are in none.
    """
    rows = comparable(prints)
    pictures: dict[bytes, int] = {}
    chained, first = [], []
    for row, thumbnail in zip(rows.tolist(), prints["thumbnail"].to_numpy()[rows], strict=True):
        if thumbnail in pictures:
            chained.append((pictures[thumbnail], row))
        else:
            first.append(row)
        pictures[thumbnail] = row
    thumbnails = np.frombuffer(b"".join(pictures), np.uint8).reshape(-1, SIDE, SIDE)
    vectors, common = describe(thumbnails)
    a, b, mirrored = alike(vectors)
    similarity = compare(thumbnails, common, a, b, mirrored, threads)
    found = similarity >= same
    ends = np.array(first, dtype=np.int64)
    pairs = np.stack([ends[a[found]], ends[b[found]]], axis=1)
    pairs = np.concatenate([np.array(chained, dtype=np.int64).reshape(-1, 2), pairs])
    table = pd.DataFrame({
        "a": pairs.min(axis=1), "b": pairs.max(axis=1),
        "similarity": np.concatenate([np.ones(len(chained)), similarity[found].astype(float)]),
        "mirrored": np.concatenate([np.zeros(len(chained), bool), mirrored[found]]),
    })
    return table.sort_values(["similarity", "a", "b"], ascending=[False, True, True], ignore_index=True)


def comparable(prints: pd.DataFrame) -> np.ndarray:
    """Returns the row positions of images that decode and are not of one gray value."""
    return np.flatnonzero((prints["reason"] == "").to_numpy() & (prints["low"] < prints["high"]).to_numpy())


def describe(thumbnails: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns step 1's unit vectors, float32 (N, 2, 128), even and odd part of each, and the common fine contrast.

    Mirroring keeps the even part and turns the sign of the odd part, so one product tells both kinds of likeness.
    """
    count, side = len(thumbnails), SIDE // 4
    share = SHARED * count / (count + 8)  # the mean of a few images is those images, not what they share
    vectors = np.empty((count, side, side), np.float32)
    common = np.zeros((SIDE, SIDE), np.float64)
    for start in range(0, count, 1024):
        part = thumbnails[start:start + 1024]
        vectors[start:start + 1024] = local_contrast(halve(part), 1, 3).reshape(-1, side, 2, side, 2).mean((2, 4))
        common += local_contrast(part, *FINE).sum(axis=0, dtype=np.float64)
    vectors -= (share / max(count, 1) * vectors.sum(axis=0, dtype=np.float64)).astype(np.float32)
    vectors -= vectors.mean(axis=(1, 2), keepdims=True)
    vectors /= np.maximum(np.sqrt((vectors * vectors).sum(axis=(1, 2), keepdims=True)), 1e-6)
    left, right = vectors[:, :, :side // 2], vectors[:, :, :side // 2 - 1:-1]
    parts = np.stack([left + right, left - right], axis=1).reshape(count, 2, side * side // 2)
    return parts * np.float32(0.5 ** 0.5), (share * common / max(count, 1)).astype(np.float32)


def alike(vectors: np.ndarray, least: float = ALIKE, nearest: int = NEAREST) -> tuple[np.ndarray, ...]:
    """Finds every pair whose vectors correlate by `least` or more, of each image's `nearest` most alike.

    All pairs are computed, in tiles that fit a processor's cache, by matrix products: no index can skip any at so
    wide a radius (60 degrees), and up to some 100,000 images this costs less than reading them.

    Returns:
        a and b (int, a < b) and whether the mirrored image is the one alike.
    """
    count = len(vectors)
    even, odd = (np.ascontiguousarray(vectors[:, part]) for part in (0, 1))
    keys = [np.empty(0, np.int64)]
    for top in range(0, count, 1024):
        found = [np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)]
        for left in range(0, count, 2048):
            turning = odd[top:top + 1024] @ odd[left:left + 2048].T
            tile = even[top:top + 1024] @ even[left:left + 2048].T + np.abs(turning)
            hits = np.flatnonzero(tile >= least)
            row, column = hits // tile.shape[1] + top, hits % tile.shape[1] + left
            other = row != column
            part = row, column * 2 + (turning.ravel()[hits] < 0), tile.ravel()[hits]  # the last bit: mirrored
            found = [np.concatenate([old, new[other]]) for old, new in zip(found, part, strict=True)]
            if len(found[0]) > nearest * len(tile):
                found = best(found[0], found[1], found[2], nearest)
        i, j, _ = best(found[0], found[1], found[2], nearest)
        keys.append((np.minimum(i, j >> 1) * count + np.maximum(i, j >> 1)) * 2 + (j & 1))
    keys = np.unique(np.concatenate(keys))
    keys = keys[np.diff(keys >> 1, prepend=-1) != 0]  # rounding may see one pair both ways
    return (keys >> 1) // max(count, 1), (keys >> 1) % max(count, 1), (keys & 1).astype(bool)


def best(i: np.ndarray, j: np.ndarray, score: np.ndarray, nearest: int) -> list[np.ndarray]:
    """Keeps the `nearest` highest scores of each i; the lower j where scores are equal."""
    order = np.lexsort((j, -score, i))
    order = order[np.arange(len(i)) - np.searchsorted(i[order], i[order]) < nearest]
    return [part[order] for part in (i, j, score)]
