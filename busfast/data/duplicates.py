"""Finds images that show the same picture, so that no split has one in training and another in the test part.

Three steps on the local contrast of gray thumbnails, which brightness, gain and gamma hardly change:

1. Compare every image with every other and its mirror image: the correlation of 256-number descriptors.
2. Align the candidates of step 1 by shift and scale along each axis, which also undoes a crop.
3. Decide by the correlation of fine detail in the overlap, after subtracting what all images of the data set have in
common (the frame of the scanner's screen, the anatomy of a standard view).

Shared low frequencies (bright above, dark below) make 64-bit perceptual hashes of ultrasound images collide; `python
benchmarks/duplicates.py` measures it.
"""

import numpy as np
import pandas as pd

from busfast.data.alignment import FINE, halve, local_contrast, similarities
from busfast.data.fingerprint import SIDE

CANDIDATE = 0.5  # step 1: a duplicate cropped by 5% passes, and about one in a thousand unrelated pairs
SAME = 0.6  # step 3: duplicates reach 0.7; unrelated pairs stay below 0.5 (ultrasound) or 0.35 (knee radiographs)
NEAREST = 8  # candidates per image in step 2, however many pass step 1
SHARED = 0.5  # share of the common picture that is subtracted; all of it would erase a set of mere duplicates
TILE = (1024, 2048)  # rows and columns of a tile that fits a processor's cache


def exact_duplicates(prints: pd.DataFrame) -> list[list[int]]:
    """Returns the row positions of each group of images with the same 8-bit pixels, ascending, ordered by their first.
    Unreadable and constant images are left out: all black frames are equal and say nothing about a patient.
    """
    pixels = prints["pixels"].to_numpy()
    groups: dict[str, list[int]] = {}
    for row in comparable(prints):
        groups.setdefault(pixels[row], []).append(int(row))
    return [rows for rows in groups.values() if len(rows) > 1]


def near_duplicates(prints: pd.DataFrame, same: float = SAME, threads: int | None = None) -> pd.DataFrame:
    """Finds pairs of images of one picture: saved again, resized, brightened, marked, cropped or mirrored.

    Returns a row per pair, most similar first: a, b (row positions in `prints`, a < b), similarity (correlation after
    alignment, at least `same`) and mirrored (left and right are exchanged). Exact duplicates are included; unreadable
    and constant images are not. k images with the same thumbnail are chained by k - 1 pairs;
    `busfast.data.groups.connected` gives groups.
    """
    rows = comparable(prints)
    last_row: dict[bytes, int] = {}  # thumbnail -> the last row that has it
    chained, unique = [], []
    for row, thumbnail in zip(rows.tolist(), prints["thumbnail"].to_numpy()[rows], strict=True):
        if thumbnail in last_row:
            chained.append((last_row[thumbnail], row))
        else:
            unique.append(row)
        last_row[thumbnail] = row
    thumbnails = np.frombuffer(b"".join(last_row), np.uint8).reshape(-1, SIDE, SIDE)
    vectors, common = describe(thumbnails)
    a, b, mirrored = candidate_pairs(vectors)
    similarity = similarities(thumbnails, common, a, b, mirrored, threads)
    accepted = similarity >= same
    unique = np.array(unique, dtype=np.int64)
    pairs = np.stack([unique[a[accepted]], unique[b[accepted]]], axis=1)
    pairs = np.concatenate([np.array(chained, dtype=np.int64).reshape(-1, 2), pairs])
    table = pd.DataFrame({
        "a": pairs.min(axis=1), "b": pairs.max(axis=1),
        "similarity": np.concatenate([np.ones(len(chained)), similarity[accepted].astype(float)]),
        "mirrored": np.concatenate([np.zeros(len(chained), bool), mirrored[accepted]]),
    })
    return table.sort_values(["similarity", "a", "b"], ascending=[False, True, True], ignore_index=True)


def most_similar(prints: pd.DataFrame, rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the positions of the images most like each of `rows` in step 1, (n, count), and the correlations."""
    thumbnails = np.frombuffer(b"".join(prints["thumbnail"]), np.uint8).reshape(-1, SIDE, SIDE)
    even, odd = describe(thumbnails)[0].transpose(1, 0, 2)
    alike = even[rows] @ even.T + np.abs(odd[rows] @ odd.T)
    alike[np.arange(len(rows)), rows] = -np.inf  # the image itself
    nearest = np.argsort(-alike, axis=1, kind="stable")[:, :count]
    return nearest, np.take_along_axis(alike, nearest, axis=1)


def comparable(prints: pd.DataFrame) -> np.ndarray:
    """Returns the row positions of images that are readable and not constant."""
    return np.flatnonzero((prints["reason"] == "").to_numpy() & (prints["low"] < prints["high"]).to_numpy())


def describe(thumbnails: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the unit vectors of step 1, float32 (N, 2, 128), and the common fine contrast, float32 (SIDE, SIDE).

    A vector is an even and an odd part under mirroring; a mirror image has the same even and the negative odd part.
    """
    count, side = len(thumbnails), SIDE // 4
    share = SHARED * count / (count + 8)  # the mean of a few images is the images themselves, not what they share
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


def candidate_pairs(vectors: np.ndarray, least: float = CANDIDATE, nearest: int = NEAREST) -> tuple[np.ndarray, ...]:
    """Returns a, b (a < b) and mirrored of the pairs that correlate by `least` or more, of each image's `nearest` ones.

    Brute force by matrix products of tiles: no index can prune at so wide a radius (60 degrees), and up to about
    100,000 images this takes less time than reading them.
    """
    count = len(vectors)
    even, odd = (np.ascontiguousarray(vectors[:, part]) for part in (0, 1))
    keys = [np.empty(0, np.int64)]  # a pair and `mirrored` in one number: (a * count + b) * 2 + mirrored
    for top in range(0, count, TILE[0]):
        best = [np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)]
        for left in range(0, count, TILE[1]):
            odd_product = odd[top:top + TILE[0]] @ odd[left:left + TILE[1]].T
            tile = even[top:top + TILE[0]] @ even[left:left + TILE[1]].T + np.abs(odd_product)
            hits = np.flatnonzero(tile >= least)
            row, column = hits // tile.shape[1] + top, hits % tile.shape[1] + left
            other = row != column
            columns = row, column * 2 + (odd_product.ravel()[hits] < 0), tile.ravel()[hits]  # last bit: mirrored
            best = [np.concatenate([old, new[other]]) for old, new in zip(best, columns, strict=True)]
            if len(best[0]) > nearest * len(tile):
                best = keep_nearest(best[0], best[1], best[2], nearest)
        i, j, _ = keep_nearest(best[0], best[1], best[2], nearest)
        keys.append((np.minimum(i, j >> 1) * count + np.maximum(i, j >> 1)) * 2 + (j & 1))
    keys = np.unique(np.concatenate(keys))
    keys = keys[np.diff(keys >> 1, prepend=-1) != 0]  # by rounding, one pair may be in both ways
    return (keys >> 1) // max(count, 1), (keys >> 1) % max(count, 1), (keys & 1).astype(bool)


def keep_nearest(i: np.ndarray, j: np.ndarray, score: np.ndarray, nearest: int) -> list[np.ndarray]:
    """Keeps the `nearest` highest scores of each i; of equal scores, those with the lower j."""
    order = np.lexsort((j, -score, i))
    order = order[np.arange(len(i)) - np.searchsorted(i[order], i[order]) < nearest]
    return [column[order] for column in (i, j, score)]
