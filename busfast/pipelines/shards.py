"""Files of decoded pixels: images of uint8 one after the other, then a footer that says what they are.

A shard appears whole or not at all and is never changed afterwards. It is read with `pread`, not through a memory map:
slower, but still several times as fast as a batch is augmented; a file that was cut short gives an error rather than
a crash of the process, and the pixels do not count as the process's memory.
"""

import hashlib
import json
import os
import uuid
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from busfast.files import atomic

MAGIC = b"busfast1"
SUFFIX = ".pixels"
TAIL = 32  # bytes at the very end: length of the footer (8), its hash (16), MAGIC (8)


class Damaged(ValueError):
    """A shard is cut short, changed, or no shard at all."""


def write_shard(folder: Path, meta: dict, images: Iterable[tuple[str, np.ndarray]]) -> Path:
    """Writes a shard.

    Args:
        folder: where it shall stand.
        meta: plain values that all images share, with `size`; what reads the shard compares them.
        images: the key of each image and its pixels, uint8 (size, size, 1 or 3).

    Returns:
        The new file.

    Raises:
        UserError: it cannot be written; nothing is left of it.
    """
    path, rows = folder / f"{uuid.uuid4().hex}{SUFFIX}", []
    with atomic(path, "wb") as file:
        for key, pixels in images:
            data = np.ascontiguousarray(pixels).data
            rows.append([key, pixels.shape[2], zlib.crc32(data)])
            file.write(data)
        footer = json.dumps({"meta": meta, "rows": rows}, separators=(",", ":")).encode("ascii")
        file.write(footer + len(footer).to_bytes(8, "little") + hash_bytes(footer) + MAGIC)
    return path


class Shard:
    """A shard to read from. What it knows of its images is in arrays: Python's objects would take ten times as much.

    Args:
        path: its file.
        meta: what it must have been written with.

    Raises:
        Damaged: it is not a whole shard of that kind.
        OSError: it cannot be read.
    """

    def __init__(self, path: Path, meta: dict):
        self.path, self.side = path, meta["size"]
        self._file = open(path, "rb", buffering=0)
        try:
            footer, size = self._read_footer()
            if footer["meta"] != meta:
                raise Damaged(f"{path} holds pixels of another kind")
            keys, channels, checksums = zip(*footer["rows"], strict=True)
            self._keys, self._checksums = np.array(keys, "S"), np.array(checksums, np.uint32)
            self._ends = np.cumsum(channels, dtype=np.int64) * self.side**2
            self._checked = np.zeros(len(keys), bool)
            if self._ends[-1] != size:
                raise Damaged(f"{path} is not as long as it says")
        except BaseException:
            self._file.close()
            raise

    def _read_footer(self) -> tuple[dict, int]:
        """Returns the footer and the number of bytes before it."""
        size = os.fstat(self._file.fileno()).st_size
        tail = self._read_at(max(0, size - TAIL), TAIL)
        length = int.from_bytes(tail[:8], "little")
        if tail[-8:] != MAGIC or length > size - TAIL:
            raise Damaged(f"{self.path} is cut short, or no file of decoded pixels")
        footer = self._read_at(size - TAIL - length, length)
        if hash_bytes(footer) != tail[8:24]:
            raise Damaged(f"{self.path} was changed")
        return json.loads(footer), size - TAIL - length

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def keys(self) -> list[str]:
        """The keys of its images, in the order they lie in."""
        return self._keys.astype(str).tolist()

    def read(self, number: int) -> np.ndarray:
        """Returns the pixels of an image, uint8 (size, size, channels); checks them when it reads them first.

        Args:
            number: its place in `keys`.

        Raises:
            Damaged: the file is not any more what it was.
            OSError: it cannot be read.
        """
        start, end = int(self._ends[number - 1]) if number else 0, int(self._ends[number])
        data = self._read_at(start, end - start)
        if not self._checked[number]:
            if zlib.crc32(data) != self._checksums[number]:
                raise Damaged(f"{self.path} was changed")
            self._checked[number] = True
        return np.frombuffer(data, np.uint8).reshape(self.side, self.side, -1)

    def _read_at(self, offset: int, length: int) -> bytes:
        if hasattr(os, "pread"):
            data = os.pread(self._file.fileno(), length, offset)
        else:  # Windows: a file of its own, for another thread may read at another place
            with open(self.path, "rb", buffering=0) as file:
                file.seek(offset)
                data = file.read(length)
        if len(data) < length:
            raise Damaged(f"{self.path} is cut short")
        return data


def hash_bytes(data: bytes) -> bytes:
    """Returns a hash of 16 bytes that nobody can meet by chance."""
    return hashlib.blake2b(data, digest_size=16).digest()
