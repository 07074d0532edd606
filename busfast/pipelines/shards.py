"""Shards of the decoded cache: the uint8 pixels of many images, one after the other, then a footer that lists them.

A shard is written atomically and never changed. It is read with `pread`, not through a memory map: slower, but still
several times faster than augmentation; a truncated file raises an error instead of crashing the process, and the
pixels do not count as the process's memory.
"""

import hashlib
import json
import os
import uuid
import zlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np

from busfast.files import atomic

MAGIC = b"busfast1"
SUFFIX = ".pixels"
TAIL = 32  # bytes at the end: length of the footer (8), its hash (16), MAGIC (8)


class Damaged(ValueError):
    """A shard is truncated or changed, or the file is not a shard."""


def write_shard(folder: Path, meta: dict, images: Iterable[tuple[str, np.ndarray]]) -> Path:
    """Writes keys and pixels, uint8 (height, width, 1 or 3), to a new shard in `folder`.
    `meta` is what all images share, JSON values with `size`, which the reader compares. The footer has the number of
    channels of an image of size x size pixels, the whole shape of any other."""
    path, rows = folder / f"{uuid.uuid4().hex}{SUFFIX}", []
    with atomic(path, "wb") as file:
        for key, pixels in images:
            data = np.ascontiguousarray(pixels).data
            square = pixels.shape[:2] == (meta["size"], meta["size"])
            rows.append([key, pixels.shape[2] if square else pixels.shape, zlib.crc32(data)])
            file.write(data)
        footer = json.dumps({"meta": meta, "rows": rows}, separators=(",", ":")).encode("ascii")
        file.write(footer + len(footer).to_bytes(8, "little") + hash_bytes(footer) + MAGIC)
    return path


class Shard:
    """A shard opened for reading. Its index is in arrays: Python objects would take ten times the memory.
    Raises Damaged if the file is not a complete shard with this `meta`, OSError if it cannot be read."""

    def __init__(self, path: Path, meta: dict):
        self.path, side = path, meta["size"]
        self._file = open(path, "rb", buffering=0)
        try:
            footer, size = self._read_footer()
            if footer["meta"] != meta:
                raise Damaged(f"{path} holds other pixels")
            keys, shapes, checksums = zip(*footer["rows"], strict=True)
            self._keys, self._checksums = np.array(keys, "S"), np.array(checksums, np.uint32)
            self._shapes = np.array([(side, side, one) if isinstance(one, int) else one for one in shapes], np.int32)
            self._ends = np.cumsum(self._shapes.prod(1, dtype=np.int64))
            self._checked = np.zeros(len(keys), bool)
            if self._ends[-1] != size:
                raise Damaged(f"{path} has the wrong length")
        except BaseException:
            self._file.close()
            raise

    def _read_footer(self) -> tuple[dict, int]:
        """Returns the footer and the number of bytes before it."""
        size = os.fstat(self._file.fileno()).st_size
        tail = self._read_at(max(0, size - TAIL), TAIL)
        length = int.from_bytes(tail[:8], "little")
        if tail[-8:] != MAGIC or length > size - TAIL:
            raise Damaged(f"{self.path} is truncated, or not a file of decoded pixels")
        footer = self._read_at(size - TAIL - length, length)
        if hash_bytes(footer) != tail[8:24]:
            raise Damaged(f"{self.path} is damaged")
        return json.loads(footer), size - TAIL - length

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def shape(self) -> tuple[int, ...]:
        """The largest height, width and number of channels of its images."""
        return tuple(self._shapes.max(0).tolist())

    @property
    def keys(self) -> list[str]:
        """The keys of its images, in order."""
        return self._keys.astype(str).tolist()

    def read(self, number: int) -> np.ndarray:
        """Returns the pixels of image `number`, uint8 (height, width, channels); checks them at the first read."""
        start, end = int(self._ends[number - 1]) if number else 0, int(self._ends[number])
        data = self._read_at(start, end - start)
        if not self._checked[number]:
            if zlib.crc32(data) != self._checksums[number]:
                raise Damaged(f"{self.path} is damaged")
            self._checked[number] = True
        return np.frombuffer(data, np.uint8).reshape(self._shapes[number])

    def _read_at(self, offset: int, length: int) -> bytes:
        if hasattr(os, "pread"):
            data = os.pread(self._file.fileno(), length, offset)
        else:  # Windows: a separate handle, since threads share the position of one
            with open(self.path, "rb", buffering=0) as file:
                file.seek(offset)
                data = file.read(length)
        if len(data) < length:
            raise Damaged(f"{self.path} is truncated")
        return data


def open_shards(folder: Path, meta: dict, wanted: set[str]) -> list[Shard]:
    """Opens the shards of a folder; removes damaged ones, and those that hold none of the `wanted` keys."""
    shards = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            shard = Shard(path, meta)
        except Exception as error:  # a damaged file raises nearly anything; the cost is decoding again
            discard_shard(path, error)
            continue
        if wanted.isdisjoint(shard.keys):
            path.unlink()
        else:
            shards.append(shard)
    return shards


def discard_shard(path: Path, error: Exception) -> None:
    """Deletes a damaged shard and prints why."""
    print(f"cache: {error}; its images are decoded again")
    with suppress(OSError):  # the next run will find it damaged again
        path.unlink(missing_ok=True)


def hash_bytes(data: bytes) -> bytes:
    """Returns a 16-byte hash, long enough to rule out collisions."""
    return hashlib.blake2b(data, digest_size=16).digest()
