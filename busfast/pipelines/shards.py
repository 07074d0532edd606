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
from typing import NamedTuple

import numpy as np

from busfast.files import atomic

MAGIC = b"busfast1"
SUFFIX = ".pixels"
TAIL = 32  # bytes at the very end: length of the footer (8), its hash (16), MAGIC (8)


class Damaged(ValueError):
    """A shard is cut short, changed, or no shard at all."""


class Row(NamedTuple):
    """Where the pixels of an image lie in a shard (bytes), how many channels they have, and their CRC-32."""

    offset: int
    channels: int
    checksum: int


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
    """A shard to read from; `rows` are its images by key.

    Args:
        path: its file.
        meta: what it must have been written with.

    Raises:
        Damaged: it is not a whole shard of that kind.
        OSError: it cannot be read.
    """

    def __init__(self, path: Path, meta: dict):
        self.path, self.side = path, meta["size"]
        self.rows: dict[str, Row] = {}
        self._checked: set[int] = set()
        self._file = open(path, "rb", buffering=0)
        try:
            footer, size = self._read_footer()
            if footer["meta"] != meta:
                raise Damaged(f"{path} holds pixels of another kind")
            offset = 0
            for key, channels, checksum in footer["rows"]:
                self.rows[key] = Row(offset, channels, checksum)
                offset += self.side**2 * channels
            if offset != size:
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

    def read(self, row: Row) -> np.ndarray:
        """Returns the pixels of an image, uint8 (size, size, channels); checks them when it reads them first.

        Raises:
            Damaged: the file is not any more what it was.
            OSError: it cannot be read.
        """
        data = self._read_at(row.offset, self.side**2 * row.channels)
        if row.offset not in self._checked:
            if zlib.crc32(data) != row.checksum:
                raise Damaged(f"{self.path} was changed")
            self._checked.add(row.offset)
        return np.frombuffer(data, np.uint8).reshape(self.side, self.side, row.channels)

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
